"""A converted model on disk: the folder with its manifest, and prediction with it."""
