"""Logits to what a person reads: labels with probabilities, masks, images. Exact in Python, Kotlin and Swift.

Ties always go to the lower index, and only softmax rounds (1e-6 between languages).
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgevit.data.preprocess import Geometry
from edgevit.errors import UsageError
from edgevit.infra.files import write_bytes

IGNORE_INDEX = 255  # of mask pixels never seen by the model, or neither learned nor scored


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an image: its label, its index in the logits, its softmax probability."""

    label: str
    index: int
    probability: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis: computed in float64, returned as float32 of the same shape."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)  # the largest exponent is 0: no overflow
    exponentials = np.exp(shifted)
    return (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest of scores (N,), best first, ties to the lower index; all of them if k > N."""
    if k < 1:
        raise UsageError(f"top {k} of {len(scores)} classes", fix="ask for at least 1")
    return np.argsort(-scores.astype(np.float64), kind="stable")[:k]


def classify(logits: np.ndarray, labels: Sequence[str], k: int = 5) -> list[Prediction]:
    """The k likeliest classes of one image, best first; logits (1, N) or (N,) with N labels.

    Ranked by logit, not by probability: softmax rounds distinct logits to equal probabilities.
    Raises UsageError if the counts differ or a logit is not finite.
    """
    scores = logits.reshape(-1)
    if len(scores) != len(labels):
        raise UsageError(f"{len(scores)} scores for {len(labels)} labels", fix="use the labels of the training")
    _require_finite(scores)
    probabilities = softmax(scores)
    return [Prediction(labels[index], int(index), float(probabilities[index])) for index in top_k(scores, k)]


def segment_mask(logits: np.ndarray) -> np.ndarray:
    """Class index per pixel: (1, C, H, W) -> uint8 (H, W). With 1 class, 1 where the logit is above 0.

    Raises UsageError for more than 255 classes (255 is the ignore index) or logits that are not finite.
    """
    if logits.ndim != 4 or logits.shape[0] != 1 or not 1 <= logits.shape[1] <= IGNORE_INDEX:
        raise UsageError(
            f"logits {logits.shape} are not one mask", fix=f"give (1, classes, H, W), classes <= {IGNORE_INDEX}"
        )
    _require_finite(logits)
    if logits.shape[1] == 1:
        return (logits[0, 0] > 0).astype(np.uint8)
    return logits[0].argmax(axis=0).astype(np.uint8)  # argmax takes the first of equals


def enlarge_nearest(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of (h, w) to size_hw: output i of m shows source floor(i * n / m)."""
    rows, columns = (np.arange(m) * n // m for n, m in zip(mask.shape, size_hw, strict=True))
    return mask[rows[:, None], columns]


def mask_on_photo(mask: np.ndarray, geometry: Geometry, photo_hw: tuple[int, int]) -> np.ndarray:
    """Undo resize and crop: mask uint8 (h, w) over the crop -> uint8 photo_hw, 255 (ignore index) outside the crop.

    Photo pixel i of n lies on line floor(i * resized / n) of the resized image, and the mask stretches over the crop.
    """
    rows = _crop_lines(photo_hw[0], geometry.resized_height, geometry.top, geometry.height)
    columns = _crop_lines(photo_hw[1], geometry.resized_width, geometry.left, geometry.width)
    crop = enlarge_nearest(mask, (geometry.height, geometry.width))
    seen = (rows >= 0)[:, None] & (columns >= 0)
    # Lines outside have index -1, which reads the last line of the crop; `seen` replaces what it read.
    return np.where(seen, crop[rows[:, None], columns], np.uint8(IGNORE_INDEX))


def overlay(photo: np.ndarray, mask: np.ndarray, *, clear: Collection[int] = ()) -> np.ndarray:
    """Photo uint8 (H, W, 3) with each class of mask (H, W) in its colour, half and half: uint8 (H, W, 3).

    Ignored pixels and the classes in `clear` stay as they were; the colour of class 0 is black.
    """
    if photo.shape[:2] != mask.shape:
        raise UsageError(f"mask {mask.shape} for a photo {photo.shape[:2]}", fix="bring it to size with mask_on_photo")
    blended = (photo.astype(np.uint16) + palette()[mask]) // 2
    untouched = np.isin(mask, [IGNORE_INDEX, *clear])
    return np.where(untouched[..., None], photo, blended.astype(np.uint8))


def palette() -> np.ndarray:
    """uint8 (256, 3), one RGB colour per class, black for 0, all different: the PASCAL VOC colour map.

    Bits 0, 3, 6 of the index become the top bits of red, bits 1, 4, 7 of green, bits 2, 5 of blue.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


def save_png(pixels: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write uint8 (H, W) or (H, W, 3) as PNG, and the folders above it: whole, or StorageError and no file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    write_bytes(Path(path), encoded.getvalue())


def _crop_lines(photo_lines: int, resized: int, start: int, length: int) -> np.ndarray:
    """For each line of the photo its line in the crop, or -1 where the crop does not reach."""
    lines = np.arange(photo_lines) * resized // photo_lines - start
    return np.where((lines >= 0) & (lines < length), lines, -1)


def _require_finite(logits: np.ndarray) -> None:
    bad = int(np.count_nonzero(~np.isfinite(logits)))
    if bad:
        raise UsageError(f"{bad} of {logits.size} logits are NaN or infinite", fix="check checkpoint and precision")
