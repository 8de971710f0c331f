"""Stage-by-stage error breakdown: the error that each stage adds, from the trained float network to the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.data.metrics import agreement, score
from edgevit.verification.parity import distance

FLOAT, INT8, ROUNDED, EXPORTED, ARTIFACT = (
    "float network",
    "int8 network",
    "int8 weights",
    "exported graph",
    "artifact",
)


@dataclass(frozen=True, slots=True)
class StageError:
    """One stage on all images; agreement, SNR (dB), cosine and error against the stage before.

    score (0 to 1) is the value of `metric`, agreement the share of images or pixels of the same class. The comparisons
    are null for the first stage; elsewhere an SNR of null means equal outputs. Without labels metric is "" and score
    null.
    """

    name: str
    metric: str
    score: float | None
    agreement: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    max_abs_error: float | None = None


def break_down(outputs: Mapping[str, np.ndarray], target: np.ndarray | None) -> tuple[StageError, ...]:
    """Break down the logits (N, classes, ...) by stage, in order; target: classes (N,) or masks (N, H, W), if known."""
    steps, before = [], None
    for name, logits in outputs.items():
        metric, value = ("", None) if target is None else next(iter(score(logits, target).items()))
        steps.append(StageError(name, metric, value, *(() if before is None else _against(logits, before))))
        before = logits
    return tuple(steps)


def header(steps: Sequence[StageError]) -> tuple[str, ...]:
    """The column names of `row`."""
    return "step", steps[0].metric or "score", "agreement", "SNR", "cosine", "max. abs. error"


def row(step: StageError) -> tuple[str, ...]:
    """The cells under `header`."""
    share = "-" if step.score is None else f"{100 * step.score:.2f} %"
    if step.agreement is None:
        return step.name, share, "-", "-", "-", "-"
    closeness = "equal" if step.snr_db is None else f"{step.snr_db:.1f} dB"
    same = f"{100 * step.agreement:.2f} %"
    return step.name, share, same, closeness, f"{step.cosine:.5f}", f"{step.max_abs_error:.2e}"


def _against(logits: np.ndarray, before: np.ndarray) -> tuple[float, float | None, float, float]:
    found = distance(logits, before)
    return agreement(logits, before), found.snr_db, found.cosine, found.max_abs_error
