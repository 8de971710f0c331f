"""Two sample images made by integer arithmetic: every artifact carries them as golden inputs."""

from __future__ import annotations

import numpy as np


def sample_images() -> dict[str, np.ndarray]:
    """Name -> uint8 RGB (H, W, 3): a landscape and an upright image, of odd sizes, the same on every machine."""
    return {"landscape": _image(height=243, width=325), "portrait": _image(height=389, width=251)}


def noise_image(height: int, width: int, seed: int) -> np.ndarray:
    """Independent random bytes, uint8 RGB (H, W, 3), the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _image(height: int, width: int) -> np.ndarray:
    """Gradients, a checkerboard and rings: smooth parts, sharp edges and fine texture in one image."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    red = x * 255 // (width - 1)
    green = y * 255 // (height - 1)
    blue = ((x // 16 + y // 16) % 2) * 190 + 30
    squared_radius = (x - width // 3) ** 2 + (y - height // 2) ** 2
    ring = (squared_radius // 900) % 2 == 0
    inside = squared_radius < (min(height, width) // 3) ** 2
    image = np.stack([red, green, blue], axis=-1)
    image[inside & ring] = image[inside & ring] // 2 + 110
    return image.astype(np.uint8)
