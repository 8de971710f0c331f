"""The int8 scheme as plain data: one set of quantization parameters per tensor, which all targets share.

Weights: symmetric, one scale per output channel, values in [-127, 127]. Activations: one scale and zero point per
tensor, values in [-128, 127]. Every scale is a float16 number, because a Core ML program stores it as one: all files
then hold the very same scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import QuantizationError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_LOW, WEIGHT_HIGH = -127, 127  # TFLite keeps -128 out of weights, so that products fit its 16-bit pairs
LOW, HIGH = -128, 127
SMALLEST_SCALE = 2.0**-24  # of float16


@dataclass(frozen=True, slots=True)
class QParams:
    """Quantization parameters of a tensor: real = scale * (q - zero_point) for q in [-128, 127].

    Any two numbers, because a file that is read back may hold any; `valid` checks them against this scheme.
    """

    scale: float
    zero_point: int

    def __str__(self) -> str:
        return f"{self.scale:.6g} @ {self.zero_point}"

    @classmethod
    def over(cls, low: float, high: float) -> QParams:
        """The smallest scale that covers `low` to `high`, and zero. QuantizationError if not finite."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not low >= -1e30 or not high <= 1e30:
            raise QuantizationError(f"a tensor ranges from {low} to {high}", fix="the network or its input diverged")
        scale = next_half((high - low) / (HIGH - LOW))
        return cls(scale, max(LOW, min(HIGH, round(LOW - low / scale))))

    @property
    def valid(self) -> bool:
        """Whether zero is representable, and the scale a positive float16."""
        return LOW <= self.zero_point <= HIGH and is_half(self.scale)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest representable real number."""
        return self.scale * (LOW - self.zero_point), self.scale * (HIGH - self.zero_point)

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        """The real numbers of quantized values, float64 of the same shape."""
        return (stored.astype(np.float64) - self.zero_point) * self.scale


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight (O, ...) in int8: int_repr of the same shape, scales float32 (O,), one per index of `axis`."""

    int_repr: np.ndarray
    scales: np.ndarray
    axis: int = 0

    @classmethod
    def of(cls, weight: Tensor) -> QuantizedWeight:
        """Quantize a float weight (O, ...) by the smallest scales that cover it, channel by channel."""
        import torch

        largest = weight.detach().abs().flatten(1).amax(dim=1)  # (O,)
        if not torch.isfinite(largest).all():
            raise QuantizationError("a weight is not finite", fix="use an earlier checkpoint; this training diverged")
        scales = torch.tensor([next_half(value / WEIGHT_HIGH) for value in largest.tolist()])
        column = scales.reshape(-1, *[1] * (weight.dim() - 1))
        rounded = (weight.detach() / column).round().clamp(WEIGHT_LOW, WEIGHT_HIGH)
        return cls(rounded.to(torch.int8).numpy(), scales.numpy())

    @property
    def valid(self) -> bool:
        """Whether this scheme has such weights: symmetric, and every scale a positive float16."""
        return self.int_repr.min(initial=0) >= WEIGHT_LOW and all(map(is_half, self.scales.tolist()))

    def dequantize(self) -> np.ndarray:
        """The float32 weight that the integers stand for."""
        column = [-1 if axis == self.axis else 1 for axis in range(self.int_repr.ndim)]
        return self.int_repr.astype(np.float32) * self.scales.reshape(column)


@dataclass(frozen=True, slots=True)
class QParamsTable:
    """The quantization parameters of a network, by the name of the node whose result it is or which has the weight.

    float_fallback: nodes that could compute in int8 and stay in float, because int8 cost too much accuracy there.
    Raises QuantizationError for numbers outside this scheme.
    """

    activations: Mapping[str, QParams]
    weights: Mapping[str, QuantizedWeight]
    float_fallback: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, qparams in self.activations.items():
            if not qparams.valid:
                raise QuantizationError(
                    f"{name} has the scale {qparams.scale!r} and the zero point {qparams.zero_point}",
                    fix="scales are positive float16 numbers, zero points from -128 to 127; quantize again",
                )


def is_half(value: float) -> bool:
    """Whether a number is positive and a float16."""
    return bool(0 < value < np.inf and float(np.float16(value)) == value)


def next_half(value: float) -> float:
    """The smallest float16 that is not below `value`; at least the smallest positive one."""
    half = np.float16(max(value, SMALLEST_SCALE))
    return float(half if float(half) >= value else np.nextafter(half, np.float16(np.inf)))
