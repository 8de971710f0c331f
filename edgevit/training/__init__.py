"""Recipes, augmentation, and the training loop."""
