"""The int8 scheme as plain data: one grid per tensor that all targets share.

Weights: symmetric, one scale per output channel, values in [-127, 127]. Activations: one scale and zero point per
tensor, values in [-128, 127]. Every scale is a float16 number, because a Core ML program stores it as one: all files
then hold the same scales to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import QuantizationError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_LOW, WEIGHT_HIGH = -127, 127  # TFLite keeps -128 out of weights, so that products fit its 16-bit pairs
LOW, HIGH = -128, 127
SMALLEST_SCALE = 2.0**-24  # of float16


@dataclass(frozen=True, slots=True)
class QParams:
    """real = scale * (q - zero_point) for q in [-128, 127]; zero is on the grid."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not LOW <= self.zero_point <= HIGH or not is_half(self.scale):
            raise QuantizationError(
                f"scale {self.scale!r} with zero point {self.zero_point} is no int8 grid of this scheme",
                fix="scales are positive float16 numbers, zero points from -128 to 127",
            )

    @classmethod
    def over(cls, low: float, high: float) -> QParams:
        """The finest grid that reaches from `low` to `high`, both widened to zero. QuantizationError if not finite."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not low >= -1e30 or not high <= 1e30:
            raise QuantizationError(f"a tensor ranges from {low} to {high}", fix="the network or its input diverged")
        scale = next_half((high - low) / (HIGH - LOW))
        return cls(scale, max(LOW, min(HIGH, round(LOW - low / scale))))

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest real number on the grid."""
        return self.scale * (LOW - self.zero_point), self.scale * (HIGH - self.zero_point)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight (O, ...) on its grid: values int8 of the same shape, scales float32 (O,)."""

    values: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> QuantizedWeight:
        """Round a float weight to the finest grid that holds it, channel by channel."""
        import torch

        largest = weight.detach().abs().flatten(1).amax(dim=1)  # (O,)
        if not torch.isfinite(largest).all():
            raise QuantizationError("a weight is not finite", fix="use an earlier checkpoint; this training diverged")
        scales = torch.tensor([next_half(value / WEIGHT_HIGH) for value in largest.tolist()])
        column = scales.reshape(-1, *[1] * (weight.dim() - 1))
        return cls((weight.detach() / column).round().clamp(WEIGHT_LOW, WEIGHT_HIGH).to(torch.int8), scales)

    def real(self) -> Tensor:
        """The float32 weight that the grid stands for."""
        return self.values.float() * self.scales.reshape(-1, *[1] * (self.values.dim() - 1))


@dataclass(frozen=True, slots=True)
class QParamsTable:
    """The grids of a network, by the name of the graph node: the one whose result it is, or which has the weight.

    islands: nodes that could compute in int8 and stay in float, because int8 cost too much accuracy there.
    """

    activations: Mapping[str, QParams]
    weights: Mapping[str, QuantizedWeight]
    float_fallback: frozenset[str] = frozenset()


def is_half(value: float) -> bool:
    """Whether a number is positive and a float16."""
    import numpy as np

    return bool(value > 0 and float(np.float16(value)) == value)


def next_half(value: float) -> float:
    """The smallest float16 that is not below `value`; at least the smallest positive one."""
    import numpy as np

    half = np.float16(max(value, SMALLEST_SCALE))
    return float(half if float(half) >= value else np.nextafter(half, np.float16(np.inf)))
