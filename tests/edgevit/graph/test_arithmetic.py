"""Captured graphs in other arithmetic: float64 is exact, rounding is that of the type, ranges are told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.graph.arithmetic import run_in_float64, run_rounded
from edgevit.graph.capture import capture, example_input, functional
from tests.tiny import TinyClassifier, TinySegmenter, seeded

_SHAPE = (1, 3, 32, 32)


def _captured(module: nn.Module) -> torch.fx.GraphModule:
    return functional(capture(module, (example_input(_SHAPE),), "net"))


class Casts(nn.Module):
    """Names types, and makes floats from numbers."""

    def forward(self, x):
        steps = torch.arange(32.0) / 3 + torch.full((32,), 0.1)
        return (x.to(torch.float16).to(torch.float32) * steps).softmax(-1, dtype=torch.float32)


@pytest.mark.parametrize("build", [TinyClassifier, TinySegmenter])
def test_float64_is_the_network_with_its_weights_cast(build):
    network = seeded(build).eval()
    captured, x = _captured(network), example_input(_SHAPE, seed=3)
    weights = {name: tensor.clone() for name, tensor in captured.state_dict().items()}
    exact = run_in_float64(captured, x)
    expected = seeded(build).eval().double()(x.double())
    assert exact.dtype == torch.float64
    assert (exact - expected).abs().max() <= 1e-13 * expected.abs().max()
    assert all(torch.equal(weights[name], tensor) for name, tensor in captured.state_dict().items())


def test_types_that_a_network_names_are_widened():
    x = example_input(_SHAPE, seed=3)
    exact = run_in_float64(_captured(Casts()), x)
    steps = torch.arange(32, dtype=torch.float64) / 3 + 0.1
    assert exact.dtype == torch.float64
    assert (exact - (x.double() * steps).softmax(-1)).abs().max() <= 1e-14


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), ((1, 2), (3, 1), (2, 1)), (3, (0, 2), 3)])
@pytest.mark.parametrize(("multiplier", "bias"), [(1, True), (2, False)])
def test_depthwise_convolutions_are_those_of_torch(stride, padding, dilation, multiplier, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 3 * multiplier, (5, 3), stride, padding, dilation, groups=3, bias=bias)
    x = example_input(_SHAPE, seed=1)
    exact = run_in_float64(_captured(layer), x)
    assert (exact - layer.double()(x.double())).abs().max() <= 1e-13


@pytest.mark.parametrize(("dtype", "least_db", "most_db"), [(torch.float16, 55, 85), (torch.bfloat16, 35, 60)])
def test_every_value_is_rounded(dtype, least_db, most_db):
    network = seeded(TinyClassifier).eval()
    x = example_input(_SHAPE, seed=3)
    rounded = run_rounded(_captured(network), dtype, x)
    exact = network(x)
    snr_db = 10 * torch.log10((exact**2).sum() / ((rounded.output - exact) ** 2).sum())
    assert least_db < snr_db < most_db
    assert rounded.out_of_range is None
    assert torch.equal(rounded.output, rounded.output.to(dtype).float())


def test_first_operation_that_leaves_the_range_is_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        network[0].weight.mul_(1e2)
        network[1].weight.mul_(1e4)
    x = example_input(_SHAPE, seed=3)
    found = run_rounded(_captured(network), torch.float16, x)
    assert found.out_of_range is not None
    assert found.out_of_range.place == "1"
    assert found.out_of_range.largest == pytest.approx(float(network[:2](x).detach().abs().max()), rel=1e-2)
    assert run_rounded(_captured(network), torch.bfloat16, x).out_of_range is None
