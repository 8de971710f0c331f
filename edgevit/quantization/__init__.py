"""Int8: which tensors lie on which grid, how the grids are found and trained, and how they reach every file."""
