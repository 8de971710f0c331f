"""The 1797 handwritten digits that come with scikit-learn: real data for demos and tests, no download.

8x8 grey images from the test part of the UCI "Optical Recognition of Handwritten Digits" set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from edgevit.errors import MissingDependency

LABELS = tuple("0123456789")
TEST_COUNT = 500
_LEVELS = 16  # the set's pixel values are counts from 0 to 16


@dataclass(frozen=True, slots=True)
class DigitsSplit:
    """Images uint8 (N, 8, 8, 3), labels int64 (N,); 1297 to train on, 500 held out."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    labels: tuple[str, ...] = LABELS


def load_digits_split() -> DigitsSplit:
    """The digits as RGB bytes, split the same way on every machine and with every library version.

    Raises MissingDependency without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependency("scikit-learn is not installed", fix='pip install "edgevit[demo]"') from error
    digits = load_digits()
    images = to_bytes(digits.images)
    labels = digits.target.astype(np.int64)
    held_out = held_out_mask(images, labels, TEST_COUNT)
    return DigitsSplit(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def to_bytes(counts: np.ndarray) -> np.ndarray:
    """Values 0-16 (N, 8, 8) -> uint8 (N, 8, 8, 3): v * 255 / 16 rounded half up, grey replicated."""
    grey = (counts.astype(np.int64) * 255 + _LEVELS // 2) // _LEVELS
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def held_out_mask(images: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Which of N images are test images: bool (N,) with exactly `count` true, stratified by class.

    Inside a class the images are ordered by the SHA-256 of their bytes and index, and the first ones are held out:
    no random generator whose stream could change.
    """
    held_out = np.zeros(len(labels), bool)
    for label, quota in enumerate(_quotas(np.bincount(labels), count)):
        members = np.flatnonzero(labels == label)
        held_out[sorted(members, key=lambda index: _digest(images[index], int(index)))[:quota]] = True
    return held_out


def _digest(image: np.ndarray, index: int) -> bytes:
    return hashlib.sha256(image.tobytes() + index.to_bytes(4, "little")).digest()


def _quotas(class_sizes: np.ndarray, count: int) -> list[int]:
    """Share `count` over classes by size: rounded down, the rest to the largest remainders, ties to the lower class."""
    quotas, remainders = np.divmod(class_sizes * count, class_sizes.sum())
    for label in np.argsort(-remainders, kind="stable")[: count - quotas.sum()]:
        quotas[label] += 1
    return quotas.tolist()
