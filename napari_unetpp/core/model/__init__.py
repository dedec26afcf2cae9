"""A model in one file: weights and card, read without trust."""
