"""Per-channel factors as depthwise 1x1 convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.passes.channel_scale_to_depthwise import CHANNEL_SCALE_TO_DEPTHWISE
from edgevit.deploy.passes.decompose_layer_norm import DECOMPOSE_LAYER_NORM
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops, settled

_MAP = (1, 4, 5, 3)


def _net(function, *shapes: tuple[int, ...]) -> Function:
    net = Function(function)
    net.factors = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])
    return net


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)])
def test_factor_becomes_a_convolution(shape):
    net = _net(lambda net, x: (x * net.factors[0]).exp(), shape)
    graph = graph_of(net, _MAP)
    assert len(CHANNEL_SCALE_TO_DEPTHWISE.apply(graph, XNNPACK)) == 1
    assert ops(graph) == {"conv2d.default": 1, "exp.default": 1}
    assert error(graph, net, _MAP) <= 1e-6


def test_offset_behind_the_factor_becomes_its_bias():
    net = _net(lambda net, x: (net.factors[0] * x + net.factors[1]).exp(), (4, 1, 1), (1, 4, 1, 1))
    graph = graph_of(net, _MAP)
    CHANNEL_SCALE_TO_DEPTHWISE.apply(graph, XNNPACK)
    assert ops(graph) == {"conv2d.default": 1, "exp.default": 1}
    assert error(graph, net, _MAP) <= 1e-6


def test_offset_stays_where_the_product_is_read_elsewhere():
    net = _net(lambda net, x: (y := x * net.factors[0]).exp() * (y + net.factors[1]), (4, 1, 1), (4, 1, 1))
    graph = graph_of(net, _MAP)
    CHANNEL_SCALE_TO_DEPTHWISE.apply(graph, XNNPACK)
    assert ops(graph)["add.Tensor"] == 1
    assert error(graph, net, _MAP) <= 1e-6


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 5, 1), (3,), (1, 4, 5, 3)], ids=str)
def test_other_constants_stay(shape):
    assert changes_nothing(CHANNEL_SCALE_TO_DEPTHWISE, _net(lambda net, x: (x * net.factors[0]).exp(), shape), _MAP)


def test_batch_norm_that_stands_alone_becomes_a_convolution():
    net = settled(Function(lambda net, x: net.norm(x.exp()).exp(), norm=nn.BatchNorm2d(4)))
    graph = graph_of(net, _MAP)
    assert CHANNEL_SCALE_TO_DEPTHWISE.apply(graph, XNNPACK) == ["norm"]
    assert ops(graph) == {"conv2d.default": 1, "exp.default": 2}
    assert error(graph, net, _MAP) <= 1e-6


def test_tokens_stay():
    assert changes_nothing(CHANNEL_SCALE_TO_DEPTHWISE, _net(lambda net, x: x.flatten(2) * net.factors[0], (4, 1)), _MAP)


def test_norms_keep_their_scale():
    net = Function(
        lambda net, x: net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).exp(), norm=nn.LayerNorm(4)
    ).eval()
    graph = graph_of(net, _MAP)
    DECOMPOSE_LAYER_NORM.apply(graph, XNNPACK)
    assert CHANNEL_SCALE_TO_DEPTHWISE.apply(graph, XNNPACK) == []
