"""NNCF's trainable quantizers, with the arithmetic of the exported network.

Parameters, their meaning and their place in a state dict are NNCF's. The arithmetic is torch's fake quantization with
this scheme's quantization parameters: it rounds as the exported Q/DQ pairs do, every scale is a float16 number in
training already, and no compiler is needed, as for NNCF's own kernels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgevit.compat.nncf import quantizer_spec, quantizer_type
from edgevit.compat.torch import fake_quantize_per_channel, fake_quantize_per_tensor
from edgevit.quantization.qparams import HIGH, LOW, SMALLEST_SCALE, WEIGHT_HIGH, WEIGHT_LOW, QParams, QuantizedWeight

_Asymmetric: Any = quantizer_type(symmetric=False)
_Symmetric: Any = quantizer_type(symmetric=True)


class ActivationQuantizer(_Asymmetric):
    """Fake quantization of a tensor by trained quantization parameters: float32 in and out, any shape."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__(quantizer_spec((1,), symmetric=False, narrow_range=False))
        low, high = qparams.range
        self.input_low.data.fill_(low)
        self.input_range.data.fill_(high - low)

    def quantize(self, x: Tensor, execute_traced_op_as_identity: bool = False) -> Tensor:
        """NNCF's hook; gradients reach the range by the straight-through estimator, scaled as LSQ does."""
        scale, zero_point = self._numbers()
        factor = 1 / math.sqrt(x.numel() * HIGH)
        return fake_quantize_per_tensor(x, scale, zero_point, LOW, HIGH, factor)

    def scale_now(self) -> Tensor:
        """The current scale (1,)."""
        return self._numbers()[0]

    def qparams(self) -> QParams:
        """The current quantization parameters."""
        scale, zero_point = (number.detach() for number in self._numbers())
        return QParams(float(scale), int(zero_point.round().clamp(LOW, HIGH)))

    def _numbers(self) -> tuple[Tensor, Tensor]:
        scale = _half(self.input_range.abs() / (HIGH - LOW))
        return scale, LOW - self.input_low / scale


class WeightQuantizer(_Symmetric):
    """Fake quantization of a weight (O, ...) by trained scales, one per output channel."""

    def __init__(self, weight: Tensor, quantized: QuantizedWeight) -> None:
        shape = (len(quantized.scales), *[1] * (weight.dim() - 1))
        super().__init__(quantizer_spec(shape, symmetric=True, narrow_range=True))
        self.scale.data.copy_((torch.from_numpy(quantized.scales) * WEIGHT_HIGH).reshape(shape))

    def quantize(self, x: Tensor, execute_traced_op_as_identity: bool = False) -> Tensor:
        """NNCF's hook; as above, per channel."""
        scales = self.scale_now()
        factor = 1 / math.sqrt(x[0].numel() * WEIGHT_HIGH)
        zeros = torch.zeros_like(scales)
        return fake_quantize_per_channel(x, scales, zeros, WEIGHT_LOW, WEIGHT_HIGH, factor)

    def quantized(self, weight: Tensor) -> QuantizedWeight:
        """`weight` quantized by the current scales."""
        scales = self.scale_now().detach()
        inverse = (1 / scales).reshape(-1, *[1] * (weight.dim() - 1))
        values = (weight.detach() * inverse).round().clamp(WEIGHT_LOW, WEIGHT_HIGH)
        return QuantizedWeight(values.to(torch.int8).numpy(), scales.clone().numpy())

    def scale_now(self) -> Tensor:
        """The current scales (O,)."""
        return _half(self.scale.abs().reshape(-1) / WEIGHT_HIGH)


def _half(scale: Tensor) -> Tensor:
    """The nearest float16, at least the smallest one; the gradient passes unchanged (straight-through)."""
    rounded = scale.detach().clamp_min(SMALLEST_SCALE).to(torch.float16).to(torch.float32)
    return scale + (rounded - scale).detach()
