"""Int8: which tensors lie on which grid, how grids are found and trained, how they reach every file; pruning."""
