"""How far outputs are from the expected ones: one formula for every check, the same on phones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgevit.contract.manifest import Tolerance


@dataclass(frozen=True, slots=True)
class Distance:
    """Between two arrays: max|a-b|, max|a-b| / max|b|, 10 log10(sum b^2 / sum (a-b)^2) or None if equal, cosine."""

    max_abs_error: float
    max_relative_error: float
    snr_db: float | None
    cosine: float

    def misses(self, tolerance: Tolerance) -> list[str]:
        """The bounds of a tolerance that this misses, in words."""
        if self.max_relative_error == NOT_FINITE.max_relative_error:
            return ["values are not finite, or of another shape"]
        return tolerance.missed_by(self.max_relative_error, self.snr_db)


NOT_FINITE = Distance(1e30, 1e30, -300.0, 0.0)  # in effect infinite, but a number that JSON has


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
    """In float64, of arrays of one shape; NOT_FINITE for values that are not, and for another shape."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return NOT_FINITE
    a, b = (array.ravel().astype(np.float64) for array in (actual, expected))
    error = np.abs(a - b).max(initial=0)
    noise, signal = ((a - b) ** 2).sum(), (b**2).sum()
    ratio = noise / max(signal, 1e-30)
    return Distance(
        float(error),
        float(error / max(np.abs(b).max(initial=0), 1e-30)),
        None if ratio == 0 else float(-10 * np.log10(ratio)),
        float((a * b).sum() / max(np.sqrt((a**2).sum() * signal), 1e-30)),
    )


def worst(distances: list[Distance]) -> Distance:
    """The worst of each number."""
    ratios = [one.snr_db for one in distances if one.snr_db is not None]
    return Distance(
        max(one.max_abs_error for one in distances),
        max(one.max_relative_error for one in distances),
        min(ratios, default=None),
        min(one.cosine for one in distances),
    )
