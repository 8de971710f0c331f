"""Parts of the aotinductor converter."""
