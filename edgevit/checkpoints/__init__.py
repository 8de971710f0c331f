"""Checkpoints: safe reading and writing, metadata, and the model that belongs to the weights."""
