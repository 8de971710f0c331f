"""Grouped 1x1 convolutions made plain, and channel shuffles taken up by convolutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgevit import models
from edgevit.deploy.cost_model import read_costs
from edgevit.deploy.pass_manager import deploy
from edgevit.deploy.passes.fold_channel_shuffles import DENSE_POINTWISE, FOLD_CHANNEL_SHUFFLES
from edgevit.deploy.passes.simplify_views import SIMPLIFY_VIEWS
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (2, 12, 4, 5)


def _flat_shuffle(x, groups=3):
    """With the pixels flattened, in rank 4."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, groups, channels // groups, height * width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


def _shuffle(x, groups=3):
    """With the pixels as they are, in rank 5."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


def _conv(channels_in=12, channels=12, kernel=1, **options) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, **options)


def _norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(12)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


def _moves(graph) -> int:
    counts = ops(graph)
    return counts["permute.default"] + counts["transpose.int"] + counts["reshape.default"]


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_grouped_pointwise_becomes_dense(groups, bias):
    module = nn.Sequential(_conv(channels=6, groups=groups, bias=bias))
    graph = graph_of(module, _MAP)
    assert DENSE_POINTWISE.apply(graph, XNNPACK) == ["0"]
    (conv,) = graph.calls(torch.ops.aten.conv2d.default)
    assert (conv.args[6], graph.value(conv.args[1]).shape) == (1, (6, 12, 1, 1))
    assert error(graph, module, _MAP) <= 1e-6


@pytest.mark.parametrize(
    "conv", [_conv(), _conv(groups=12), _conv(channels=24, groups=12), _conv(kernel=3, groups=3)], ids=str
)
def test_convolution_that_is_no_grouped_pointwise_stays(conv):
    assert changes_nothing(DENSE_POINTWISE, nn.Sequential(conv), _MAP)


def test_grouped_pointwise_stays_where_zeros_cost_more():
    module = nn.Sequential(_conv(groups=3))  # at a pixel 144 dense products, or 12 weights of groups
    assert changes_nothing(DENSE_POINTWISE, module, _MAP, costs=replace(XNNPACK, mac=1.0, grouped_tap=12.0))
    assert not changes_nothing(DENSE_POINTWISE, module, _MAP, costs=replace(XNNPACK, mac=1.0, grouped_tap=12.1))
    assert changes_nothing(DENSE_POINTWISE, module, _MAP, costs=read_costs("coreml"))


_BEHIND = {
    "convolution": lambda net, x: _shuffle(net.conv(x)).exp(),
    "pixels flattened": lambda net, x: _flat_shuffle(net.conv(x)).exp(),
    "batch norm": lambda net, x: _shuffle(net.norm(net.conv(x))).exp(),
    "activation": lambda net, x: _shuffle(torch.relu(net.conv(x)) * 2).exp(),
    "depthwise": lambda net, x: _shuffle(net.depthwise(torch.tanh(net.conv(x)))).exp(),
    "constants": lambda net, x: _shuffle(net.conv(x) * net.scale + net.shift).exp(),
    "sum": lambda net, x: _shuffle(net.conv(x) + net.other(x) * x.mean(1, keepdim=True)).exp(),
    "square": lambda net, x: _shuffle(torch.mul(y := net.conv(x), y)).exp(),
    "two shuffles": lambda net, x: _flat_shuffle(_shuffle(net.conv(x), 2), 3).exp(),
}


def _network(function) -> Function:
    module = Function(
        function,
        conv=_conv(kernel=3),
        other=_conv(bias=False),
        grouped=_conv(groups=3),
        depthwise=_conv(kernel=3, groups=12),
        norm=_norm(),
        scale=nn.Parameter(torch.rand(1, 12, 1, 1)),
        shift=nn.Parameter(torch.rand(12, 4, 5)),
    )
    return module


@pytest.mark.parametrize("name", _BEHIND)
def test_convolution_in_front_takes_the_shuffle(name):
    module = _network(_BEHIND[name])
    graph = graph_of(module, _MAP)
    assert len(FOLD_CHANNEL_SHUFFLES.apply(graph, XNNPACK)) >= 1
    assert _moves(graph) == 0
    assert error(graph, module, _MAP) <= 1e-6


def test_shuffle_that_ends_in_tokens_leaves_a_reshape():
    module = _network(lambda net, x: _flat_shuffle(net.conv(x)).flatten(2).exp())
    graph = graph_of(module, _MAP)
    assert len(FOLD_CHANNEL_SHUFFLES.apply(graph, XNNPACK)) == 1
    assert (ops(graph)["transpose.int"], ops(graph)["reshape.default"]) == (0, 1)
    assert error(graph, module, _MAP) <= 1e-6


def test_shuffle_in_one_view_with_tokens_leaves_the_tokens():
    module = _network(lambda net, x: _flat_shuffle(net.conv(x)).flatten(2).transpose(1, 2).exp())
    graph = graph_of(module, _MAP)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert len(FOLD_CHANNEL_SHUFFLES.apply(graph, XNNPACK)) == 1
    (permute,) = graph.calls(torch.ops.aten.permute.default)
    assert permute.args[1] == [0, 2, 3, 1]
    assert error(graph, module, _MAP) <= 1e-6


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(_shuffle(x)),
        lambda net, x: net.conv(y := _flat_shuffle(net.grouped(x))) * net.other(y),
    ],
)
def test_convolutions_behind_take_the_shuffle(function):
    module = _network(function)
    graph = graph_of(module, _MAP)
    assert len(FOLD_CHANNEL_SHUFFLES.apply(graph, XNNPACK)) == 1
    assert _moves(graph) == 0
    assert error(graph, module, _MAP) <= 1e-6


def test_convolution_behind_takes_the_shuffle_out_of_a_longer_view():
    module = _network(lambda net, x: net.conv(_flat_shuffle(x.permute(0, 3, 1, 2))))
    graph = graph_of(module, (2, 4, 5, 12))
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert len(FOLD_CHANNEL_SHUFFLES.apply(graph, XNNPACK)) == 1
    (permute,) = graph.calls(torch.ops.aten.permute.default)
    assert permute.args[1] == [0, 3, 1, 2]
    assert _moves(graph) == 1
    assert error(graph, module, (2, 4, 5, 12)) <= 1e-6


def test_shared_weight_is_reordered_for_one_reader_alone():
    module = _network(lambda net, x: net.other(_shuffle(net.other(x)).exp()))
    graph = graph_of(module, _MAP)
    FOLD_CHANNEL_SHUFFLES.apply(graph, XNNPACK)
    assert _moves(graph) == 0
    assert error(graph, module, _MAP) <= 1e-6


_NEAR_MISSES = {
    "grouped on both sides": lambda net, x: net.grouped(_shuffle(net.grouped(x))),
    "result read elsewhere": lambda net, x: _shuffle(y := net.conv(x)).exp() + y,
    "residual": lambda net, x: _shuffle(net.conv(x) + x).exp(),
    "constants of rank 3": lambda net, x: _shuffle(net.conv(x) + net.shift * net.shift.exp()).exp(),
    "one reader is no convolution": lambda net, x: net.conv(y := _shuffle(x)) + y,
    "depthwise of two outputs": lambda net, x: _shuffle(
        nn.functional.conv2d(net.conv(x), net.doubling, groups=12)
    ).exp(),
    "computed weight": lambda net, x: nn.functional.conv2d(_shuffle(x), x[:, :, :1, :1].exp()),
    "rows, not channels": lambda net, x: net.conv(x).reshape(2, 12, 2, 2, 5).transpose(2, 3).reshape(_MAP).exp(),
    "channels and pixels": lambda net, x: net.conv(x).flatten(2).transpose(1, 2).reshape(_MAP).exp(),
}


@pytest.mark.parametrize("name", _NEAR_MISSES)
def test_near_miss_stays_as_it_was(name):
    module = _network(_NEAR_MISSES[name])
    module.doubling = nn.Parameter(torch.rand(24, 1, 1, 1))
    assert changes_nothing(FOLD_CHANNEL_SHUFFLES, module, _MAP)


@pytest.mark.slow
def test_mobile_former_26m_loses_its_groups_and_shuffles():
    torch.manual_seed(0)
    graph_module, steps = deploy(models.create_model("mobile_former_26m").eval(), models.get_spec("mobile_former_26m"))
    assert {step.name: step.changes for step in steps}["fold_channel_shuffles"] >= 15
    convolutions = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    weights = [conv.args[1].meta["val"] for conv in convolutions if len(conv.args) > 6 and conv.args[6] > 1]
    assert all(weight.shape[1] == 1 for weight in weights)  # what is left is depthwise
