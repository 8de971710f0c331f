"""Scores by name, as people read them and as training records keep them."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.metrics import agreement, describe_scores, recorded_scores, score
from edgevit.data.postprocess import IGNORE_INDEX


def test_early_records_kept_top1_alone():
    assert recorded_scores({"epoch": 1, "loss": 0.5, "top1": 0.25, "seconds": 1.0}) == {"top-1": 0.25}
    assert recorded_scores({"epoch": 1, "loss": 0.5, "scores": {"mIoU": 0.5}, "seconds": 1.0}) == {"mIoU": 0.5}
    assert recorded_scores({"epoch": 1, "loss": 0.5}) == {}


def test_scores_are_named_in_percent():
    assert describe_scores({"mIoU": 0.5, "Dice": 2 / 3}) == "mIoU 50.00 %, Dice 66.67 %"


def _outputs(masks: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[masks].transpose(0, 3, 1, 2)


def test_overlap_counts_all_pixels_together():
    target = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 0]]], np.uint8)
    given = np.array([[[0, 0, 1, 0]], [[0, 0, 0, 1]]])
    found = score(_outputs(given, 3), target)  # class 2 occurs nowhere
    assert found["mIoU"] == pytest.approx((5 / 7 + 1 / 3) / 2)
    assert found["Dice"] == pytest.approx((10 / 12 + 2 / 4) / 2)


def test_ignored_pixels_do_not_count():
    target = np.array([[[0, 1, IGNORE_INDEX, IGNORE_INDEX]]], np.uint8)
    assert score(_outputs(np.array([[[0, 1, 1, 0]]]), 2), target) == {"mIoU": 1.0, "Dice": 1.0}
    assert score(_outputs(np.array([[[0, 1, 1, 0]]]), 2), np.full_like(target, IGNORE_INDEX)) == {
        "mIoU": 0.0,
        "Dice": 0.0,
    }


def test_top1_counts_images():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]], np.float32)
    assert score(logits, np.array([0, 0, 0])) == {"top-1": pytest.approx(2 / 3)}


def test_agreement_counts_images_or_pixels():
    one, other = np.array([[[0, 1, 1, 1]]]), np.array([[[0, 1, 1, 0]]])
    assert agreement(_outputs(one, 2), _outputs(other, 2)) == 0.75
    assert agreement(_outputs(one, 2)[:, 1:] - 0.5, _outputs(one, 2)) == 1.0  # one map: foreground where positive
