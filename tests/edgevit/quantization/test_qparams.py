"""Quantization parameters: which values they represent, and that their scales are float16 numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.errors import QuantizationError
from edgevit.quantization.qparams import SMALLEST_SCALE, QParams, QParamsTable, QuantizedWeight, is_half, next_half


@pytest.mark.parametrize("value", [1e-9, 1e-6, 0.0123, 0.5, 1.0001, 300.7])
def test_next_half_is_the_smallest_float16_not_below(value):
    half = next_half(value)
    assert half >= value
    assert np.float16(half) == half
    below = float(np.nextafter(np.float16(half), np.float16(0)))
    assert below < value or half == SMALLEST_SCALE


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.3, 5.0), (-4.0, -1.0), (0.0, 0.0), (-1e-6, 1e-5)])
def test_activation_qparams_reach_both_ends_and_zero(low, high):
    qparams = QParams.over(low, high)
    lowest, highest = qparams.range
    assert is_half(qparams.scale)
    assert lowest <= min(low, 0) + qparams.scale
    assert highest >= max(high, 0) - qparams.scale
    assert lowest <= 0 <= highest
    assert -128 <= qparams.zero_point <= 127


@pytest.mark.parametrize(("low", "high"), [(float("-inf"), 0.0), (0.0, float("nan")), (0.0, float("inf"))])
def test_range_that_is_not_finite_raises(low, high):
    with pytest.raises(QuantizationError, match="ranges from"):
        QParams.over(low, high)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.1, 0), (0.0, 0), (-0.5, 0), (0.5, 128), (0.5, -129)])
def test_numbers_that_are_no_qparams_of_the_scheme_raise(scale, zero_point):
    qparams = QParams(scale, zero_point)
    assert not qparams.valid
    with pytest.raises(QuantizationError, match="conv2d has the scale"):
        QParamsTable({"relu": QParams(0.5, 0), "conv2d": qparams}, {})


def test_quantized_weight_is_within_half_a_step_of_the_float_one():
    weight = torch.randn(6, 3, 5, 5) * torch.logspace(-4, 1, 6).reshape(-1, 1, 1, 1)
    quantized = QuantizedWeight.of(weight)
    assert quantized.valid
    assert quantized.int_repr.dtype == np.int8
    step = quantized.scales.reshape(-1, 1, 1, 1)
    assert (np.abs(quantized.dequantize() - weight.numpy()) <= step / 2 * 1.0001).all()
    whole = np.abs(quantized.int_repr).max(axis=(1, 2, 3)) == 127  # others have a scale that float16 rounded up by far
    again = QuantizedWeight.of(torch.from_numpy(quantized.dequantize()))
    assert whole.sum() >= 4
    assert np.array_equal(again.dequantize()[whole], quantized.dequantize()[whole])


def test_channel_of_zeros_has_a_scale():
    quantized = QuantizedWeight.of(torch.zeros(2, 3))
    assert (quantized.int_repr == 0).all()
    assert (quantized.scales > 0).all()


def test_weight_that_is_not_finite_raises():
    with pytest.raises(QuantizationError, match="not finite"):
        QuantizedWeight.of(torch.tensor([[1.0, float("nan")]]))
