"""The drift ladder: step by step from the trained float network to the file in an app, what became of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FLOAT, INT8, EXPORTED, ARTIFACT = "float network", "int8 network", "exported graph", "artifact"
HEADER = ("step", "top-1", "agreement", "SNR", "max. abs. error")


@dataclass(frozen=True, slots=True)
class DriftStep:
    """One form of the network on all pictures; agreement, SNR (dB), cosine and error against the step before.

    They are null for the first step; an SNR of null elsewhere means equal answers. top1 is null without labels.
    """

    name: str
    top1: float | None
    agreement: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    max_abs_error: float | None = None


def climb(answers: Mapping[str, np.ndarray], targets: np.ndarray | None) -> tuple[DriftStep, ...]:
    """The ladder of logits (N, classes) by step, in order; targets: the class of each picture (N,), if it is known."""
    steps, before = [], None
    for name, logits in answers.items():
        top1 = None if targets is None else float((logits.argmax(axis=1) == targets).mean())
        steps.append(DriftStep(name, top1, *(() if before is None else _against(logits, before))))
        before = logits
    return tuple(steps)


def row(step: DriftStep) -> tuple[str, ...]:
    """The cells of HEADER."""
    top1 = "-" if step.top1 is None else f"{100 * step.top1:.2f} %"
    if step.agreement is None:
        return step.name, top1, "-", "-", "-"
    closeness = "equal" if step.snr_db is None else f"{step.snr_db:.1f} dB"
    return (
        step.name,
        top1,
        f"{100 * step.agreement:.2f} %",
        closeness,
        f"{step.max_abs_error:.2e}",
    )


def _against(logits: np.ndarray, before: np.ndarray) -> tuple[float, float | None, float, float]:
    one, other = logits.astype(np.float64), before.astype(np.float64)
    noise, signal = np.square(one - other).sum(), np.square(other).sum()
    cosine = (one * other).sum() / max(np.sqrt(np.square(one).sum() * signal), 1e-30)
    return (
        float((one.argmax(axis=1) == other.argmax(axis=1)).mean()),
        None if noise == 0 else float(10 * np.log10(signal / noise)),
        float(cosine),
        float(np.abs(one - other).max()),
    )
