"""Checkpoints in and out, recipes, and the training loop."""
