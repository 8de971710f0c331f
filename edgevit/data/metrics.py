"""The scores of predictions, by task and name, and how training records keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgevit.data.postprocess import IGNORE_INDEX
from edgevit.spec import Task

TOP1, MIOU, DICE = "top-1", "mIoU", "Dice"
# Of each task, the one that it is judged by first.
METRICS: dict[Task, tuple[str, ...]] = {Task.CLASSIFY: (TOP1,), Task.SEGMENT: (MIOU, DICE)}


def classes_of(logits: np.ndarray) -> np.ndarray:
    """The predicted class of logits (N, classes, ...) for each image or pixel: int64 (N, ...), ties to the lower one.

    A single logit map means foreground (1) where it is positive.
    """
    if logits.ndim == 4 and logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return logits.argmax(axis=1)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of images, or of pixels, for which two sets of logits (N, classes, ...) predict the same class."""
    return float((classes_of(one) == classes_of(other)).mean())


def score(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The scores of predictions by name, each 0 to 1, the one that the task is judged by first.

    logits (N, classes) with targets (N,): top-1. logits (N, classes, H, W) with masks (N, H, W): mean IoU and mean Dice
    over the classes that occur, of all pixels together.
    """
    if target.ndim == 1:
        return {TOP1: float((classes_of(logits) == target).mean())}
    return overlap_scores(confusion(logits, target).sum(axis=0))


def confusion(logits: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pixels of each image by target and predicted class: int64 (N, C, C); pixels to ignore do not count."""
    count = max(2, logits.shape[1])
    tables = []
    for output, mask in zip(classes_of(logits), masks, strict=True):
        counted = mask != IGNORE_INDEX
        cells = mask[counted].astype(np.int64) * count + output[counted]
        tables.append(np.bincount(cells, minlength=count * count).reshape(count, count))
    return np.stack(tables)


def overlap_scores(pixels: np.ndarray) -> dict[str, float]:
    """Mean IoU and mean Dice of the classes in targets or predictions; pixels (C, C) as `confusion` counts."""
    hits = np.diagonal(pixels).astype(np.float64)
    sizes = pixels.sum(axis=0) + pixels.sum(axis=1)
    occur = sizes > 0
    if not occur.any():
        return {MIOU: 0.0, DICE: 0.0}
    iou, dice = hits[occur] / (sizes - hits)[occur], 2 * hits[occur] / sizes[occur]
    return {MIOU: float(iou.mean()), DICE: float(dice.mean())}


def describe_scores(scores: Mapping[str, float]) -> str:
    """ "top-1 46.81 %", for people."""
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in scores.items())


def recorded_scores(record: Mapping[str, Any]) -> dict[str, float]:
    """The scores in one epoch of a kept training curve, or one row of results; early ones have top-1 alone."""
    if "top1" in record:
        return {TOP1: record["top1"]}
    return dict(record.get("scores", {}))
