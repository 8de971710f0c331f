"""Every n-th channel by a convolution of zeros and ones: exact to the bit, and only where it is a map's channels."""

from __future__ import annotations

import pytest
import torch

from edgevit.deploy.cost_model import read_costs
from edgevit.deploy.passes.strided_slice_to_conv import STRIDED_SLICE_TO_CONV
from edgevit.graph.capture import example_input
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, graph_of, ops

_MAP = (2, 9, 4, 5)


@pytest.mark.parametrize("part", [slice(None, None, 2), slice(1, None, 3), slice(2, 7, 2), slice(-5, -1, 2)], ids=str)
def test_picked_channels_are_bit_exact(part):
    module = Function(lambda net, x: x[:, part].exp())
    graph = graph_of(module, _MAP)
    assert len(STRIDED_SLICE_TO_CONV.apply(graph, XNNPACK)) == 1
    assert ops(graph) == {"conv2d.default": 1, "exp.default": 1}
    (weight,) = graph.module.parameters()
    assert weight.unique().tolist() == [0, 1]
    assert (weight.sum((1, 2, 3)) == 1).all()
    x = example_input(_MAP, seed=3)
    assert torch.equal(graph.module(x), module(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x[:, 2:6].exp(),
        lambda net, x: x[:, :, ::2].exp(),
        lambda net, x: x[..., ::2].exp(),
        lambda net, x: x[::2].exp(),
        lambda net, x: x.flatten(2)[:, ::2].exp(),
        lambda net, x: (x > 0)[:, ::2].float(),
        lambda net, x: x.argsort(1)[:, ::2].float(),
    ],
    ids=["every channel", "rows", "columns", "samples", "tokens", "booleans", "integers"],
)
def test_other_slices_stay(function):
    assert changes_nothing(STRIDED_SLICE_TO_CONV, Function(function), _MAP)


def test_wide_maps_and_fast_slices_stay():
    module = Function(lambda net, x: x[:, ::2].exp())
    assert changes_nothing(STRIDED_SLICE_TO_CONV, module, _MAP, costs=read_costs("coreml"))
    channels = int(XNNPACK.strided_slice / XNNPACK.mac) + 1
    assert changes_nothing(STRIDED_SLICE_TO_CONV, module, (1, channels, 1, 1))
