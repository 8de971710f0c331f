"""Scores by name, as people read them and as training records keep them."""

from __future__ import annotations

from edgevit.scoring import describe_scores, recorded_scores


def test_early_records_kept_top1_alone():
    assert recorded_scores({"epoch": 1, "loss": 0.5, "top1": 0.25, "seconds": 1.0}) == {"top-1": 0.25}
    assert recorded_scores({"epoch": 1, "loss": 0.5, "scores": {"mIoU": 0.5}, "seconds": 1.0}) == {"mIoU": 0.5}
    assert recorded_scores({"epoch": 1, "loss": 0.5}) == {}


def test_scores_are_named_in_percent():
    assert describe_scores({"mIoU": 0.5, "Dice": 2 / 3}) == "mIoU 50.00 %, Dice 66.67 %"
