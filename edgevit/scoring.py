"""How good answers are: the scores of each task by name, and how training records keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOP1 = "top-1"


def describe_scores(scores: Mapping[str, float]) -> str:
    """ "top-1 46.81 %", for people."""
    return "  ".join(f"{name} {100 * score:.2f} %" for name, score in scores.items())


def recorded_scores(epoch: Mapping[str, Any]) -> dict[str, float]:
    """The scores of one epoch of a recorded training curve; early checkpoints kept top-1 alone."""
    if "top1" in epoch:
        return {TOP1: epoch["top1"]}
    return dict(epoch.get("scores", {}))
