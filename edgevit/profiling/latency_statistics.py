"""Statistics of latency samples: percentiles, stability, and the interval of a ratio of paired rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
MIN_ROUNDS = 6  # fewest for 95 %: with n rounds, all lie on one side of the true median with chance 2^(1-n)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float

    def includes(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the samples lie, linear between the two nearest ranks.

    Rank (n - 1) * percent / 100 of the sorted samples, counted from 0: the default rule of numpy and of
    spreadsheets, so anybody gets the same number from the raw samples. percent in [0, 100], samples not empty.
    """
    ordered = sorted(samples)
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def median(samples: Sequence[float]) -> float:
    """The 50th percentile."""
    return percentile(samples, 50)


def spread(samples: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(samples) - min(samples)) / median(samples)


def stability(samples: Sequence[float]) -> float | None:
    """Spread of the medians of three consecutive thirds: how much the machine changed during a run.

    Heat, clock changes and a neighbour's work show here; scattered outliers do not. None below 3 samples.
    """
    if len(samples) < 3:
        return None
    cuts = [len(samples) * part // 3 for part in range(4)]
    return spread([median(samples[start:stop]) for start, stop in itertools.pairwise(cuts)])


def bootstrap_ratio(ratios: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Median of paired per-round ratios, (rounds,), with its 95 % percentile-bootstrap interval.

    Rounds are drawn, not single samples: runs within a process share its memory layout and its moment on the
    machine, so samples would pretend to a certainty that repeating the measurement does not have.
    """
    import numpy as np

    values = np.asarray(ratios, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    medians = np.median(values[drawn], axis=1)  # (resamples,)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return Interval(float(np.median(values)), float(low), float(high))
