"""One report over a folder of artifacts and results."""
