"""Core ML programs without a Mac: reads packages, checks them and evaluates them."""
