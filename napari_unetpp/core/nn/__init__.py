"""The nested network: its nodes, stages, heads and losses."""
