"""A model against the truth: metrics, and what an evaluation measures."""
