"""Real images that ship inside Python packages: digits, photographs, tiles to segment."""
