"""Parts of the Core ML converter: pictures as input, a classifier's outputs, compressed weights, sessions."""
