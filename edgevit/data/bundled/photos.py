"""Pieces of 18 photographs that come with scikit-image and scikit-learn: a harder task than digits, no download.

Which image is this piece from? Pieces are grey, of random scale, light and contrast, with sensor noise; those to
train on lie in the left part of each image, those to test on in the right part, so no pixel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.errors import MissingDependency

SIZE = 32
TRAIN_PER_CLASS, TEST_PER_CLASS = 200, 80
_SCIKIT_IMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg"),
    "rocket.jpg",
)
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")
_LEFT = 0.6  # of the width, to train on
_WINDOW = (32, 72)  # pixels of a piece's side in the image, before it becomes SIZE
_GAIN, _OFFSET, _NOISE = 0.35, 40.0, 18.0  # contrast, light and noise, in steps of 255


@dataclass(frozen=True, slots=True)
class PhotosSplit:
    """Images uint8 (N, 32, 32, 3), targets int64 (N,); 200 pieces of each image to train on, 80 held out."""

    train_images: np.ndarray
    train_targets: np.ndarray
    test_images: np.ndarray
    test_targets: np.ndarray
    labels: tuple[str, ...]


def load_photos_split() -> PhotosSplit:
    """The same pieces on every machine. Raises MissingDependency without scikit-image or scikit-learn."""
    images = {path.stem: _grey(path) for path in _files()}
    labels = tuple(sorted(images))
    parts: list[np.ndarray] = []
    for part, (count, low, high) in enumerate(((TRAIN_PER_CLASS, 0.0, _LEFT), (TEST_PER_CLASS, _LEFT, 1.0))):
        crops = [
            _piece(images[label], low, high, np.random.default_rng([part, target, index]))
            for target, label in enumerate(labels)
            for index in range(count)
        ]
        parts += [np.stack(crops), np.repeat(np.arange(len(labels)), count)]
    train_images, train_targets, test_images, test_targets = parts
    return PhotosSplit(train_images, train_targets, test_images, test_targets, labels)


def _files() -> list[Path]:
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise MissingDependency(f"{error.name} is not installed", fix='pip install "edgevit[demo]"') from error
    photographs = Path(skimage.__file__).parent / "data"
    samples = Path(sklearn.__file__).parent / "datasets" / "images"
    return [*(photographs / name for name in _SCIKIT_IMAGE), *(samples / name for name in _SCIKIT_LEARN)]


def _grey(path: Path) -> np.ndarray:
    """An image as float32 luma (H, W) in 0..255, its short side at most 400 pixels."""
    from PIL import Image

    with Image.open(path) as image:
        grey = image.convert("L")
    factor = 400 / min(grey.size)
    if factor < 1:
        grey = grey.resize([round(side * factor) for side in grey.size], Image.Resampling.BOX)
    return np.asarray(grey, np.float32)


def _piece(image: np.ndarray, low: float, high: float, random: np.random.Generator) -> np.ndarray:
    """A square between two shares of the width, at random place and scale: uint8 (SIZE, SIZE, 3)."""
    from PIL import Image

    left, right = int(low * image.shape[1]), int(high * image.shape[1])
    side = int(random.integers(_WINDOW[0], min(_WINDOW[1], right - left, image.shape[0]) + 1))
    x = int(random.integers(left, right - side + 1))
    y = int(random.integers(0, image.shape[0] - side + 1))
    window = Image.fromarray(image[y : y + side, x : x + side])
    small = np.asarray(window.resize((SIZE, SIZE), Image.Resampling.BOX))
    gain, offset = 1 + random.uniform(-_GAIN, _GAIN), random.uniform(-_OFFSET, _OFFSET)
    seen = (small - 128) * gain + 128 + offset + random.normal(0, _NOISE, small.shape)
    return np.repeat(np.clip(np.rint(seen), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
