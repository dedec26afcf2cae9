"""From a few painted strokes to a better model, within seconds."""
