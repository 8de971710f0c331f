"""Pieces of five photographs that come with scikit-image, with a class per pixel: segmentation without a download.

Coins, a tissue section whose glands are stained, two written pages, and a field of galaxies. Nobody drew the masks:
classic methods find them on the clean image (watershed from an edge map, colour deconvolution with Otsu's threshold,
a local threshold, Otsu's threshold), and the network has to find the same in a piece that is grey, turned, of random
scale, light and contrast, and noisy. Those to train on lie in the left part of each image, those to test on in the
right part, so no pixel serves both; within a part pieces overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import MissingDependency

if TYPE_CHECKING:
    from PIL import Image

SIZE = 64
TRAIN_PER_IMAGE, TEST_PER_IMAGE = 240, 240
LABELS = ("background", "coin", "gland", "ink", "galaxy")
_LEFT = 0.6  # of the width, to train on
_WINDOW = (48, 96)  # pixels of a piece's side in the image, before it becomes SIZE
_GAIN, _OFFSET, _NOISE = 0.35, 40.0, 18.0  # contrast, light and noise, in steps of 255


@dataclass(frozen=True, slots=True)
class TilesSplit:
    """Images uint8 (N, 64, 64, 3), masks uint8 (N, 64, 64) that index `labels`; N is 1200 in both."""

    train_images: np.ndarray
    train_masks: np.ndarray
    test_images: np.ndarray
    test_masks: np.ndarray
    labels: tuple[str, ...]


@cache
def load_tiles_split() -> TilesSplit:
    """The same pieces on every machine. Raises MissingDependency without scikit-image."""
    images = _images()
    parts: list[np.ndarray] = []
    for part, (count, low, high) in enumerate(((TRAIN_PER_IMAGE, 0.0, _LEFT), (TEST_PER_IMAGE, _LEFT, 1.0))):
        pieces = [
            _piece(grey, mask, low, high, np.random.default_rng([part, image, index]))
            for image, (grey, mask) in enumerate(images)
            for index in range(count)
        ]
        parts += [np.stack(arrays) for arrays in zip(*pieces, strict=True)]
    train_images, train_masks, test_images, test_masks = parts
    return TilesSplit(train_images, train_masks, test_images, test_masks, LABELS)


def _images() -> list[tuple[np.ndarray, np.ndarray]]:
    """Each image as float32 luma (H, W) in 0..255 with its mask, uint8 (H, W)."""
    try:
        import skimage
    except ImportError as error:
        raise MissingDependency(f"{error.name} is not installed", fix='pip install "edgevit[demo]"') from error
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    found = []
    for name, (label, finder) in _FINDERS.items():
        with Image.open(folder / name) as image:
            mask = np.where(finder(image), LABELS.index(label), 0).astype(np.uint8)
            found.append((np.asarray(image.convert("L"), np.float32), mask))
    return found


def _coins(image: Image.Image) -> np.ndarray:
    """Two basins on the edge map, flooded from what is surely dark and what is surely bright."""
    from scipy import ndimage
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    grey = np.asarray(image.convert("L"))
    seeds = np.zeros(grey.shape, np.int32)
    seeds[grey < 40], seeds[grey > 140] = 1, 2
    bright = watershed(sobel(grey / 255), seeds) == 2
    return ndimage.binary_opening(ndimage.binary_fill_holes(bright), iterations=3)


def _glands(image: Image.Image) -> np.ndarray:
    """Where the brown stain, taken out of the colours, is strong over some pixels."""
    from scipy import ndimage
    from skimage.color import rgb2hed
    from skimage.filters import threshold_otsu

    stain = ndimage.gaussian_filter(rgb2hed(np.asarray(image.convert("RGB")))[..., 2], 3)
    strong = stain > threshold_otsu(stain)
    return ndimage.binary_opening(ndimage.binary_closing(strong, iterations=6), iterations=6)


def _ink(image: Image.Image) -> np.ndarray:
    """Darker than the paper around."""
    from scipy import ndimage
    from skimage.filters import threshold_local

    smooth = ndimage.gaussian_filter(np.asarray(image.convert("L"), np.float64), 0.7)
    return smooth < threshold_local(smooth, 35, offset=12)


def _galaxies(image: Image.Image) -> np.ndarray:
    """Brighter than the sky, and more than a speck."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(np.asarray(image.convert("L"), np.float64), 1)
    return ndimage.binary_opening(smooth > threshold_otsu(smooth))


_FINDERS: dict[str, tuple[str, Callable[[Image.Image], np.ndarray]]] = {
    "coins.png": ("coin", _coins),
    "ihc.png": ("gland", _glands),
    "page.png": ("ink", _ink),
    "text.png": ("ink", _ink),
    "hubble_deep_field.jpg": ("galaxy", _galaxies),
}


def _piece(
    grey: np.ndarray, mask: np.ndarray, low: float, high: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square between two shares of the width, at random place, scale and turn: uint8 (SIZE, SIZE, 3), its mask."""
    from PIL import Image

    left, right = int(low * grey.shape[1]), int(high * grey.shape[1])
    side = int(random.integers(_WINDOW[0], min(_WINDOW[1], right - left, grey.shape[0]) + 1))
    x = int(random.integers(left, right - side + 1))
    y = int(random.integers(0, grey.shape[0] - side + 1))
    turns, mirrored = int(random.integers(4)), bool(random.integers(2))

    def cut(image: np.ndarray, method: Image.Resampling) -> np.ndarray:
        window = Image.fromarray(image[y : y + side, x : x + side])
        turned = np.rot90(np.asarray(window.resize((SIZE, SIZE), method)), turns)
        return turned[:, ::-1] if mirrored else turned

    small = cut(grey, Image.Resampling.BILINEAR)
    gain, offset = 1 + random.uniform(-_GAIN, _GAIN), random.uniform(-_OFFSET, _OFFSET)
    seen = (small - 128) * gain + 128 + offset + random.normal(0, _NOISE, small.shape)
    pixels = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=-1), np.ascontiguousarray(cut(mask, Image.Resampling.NEAREST))
