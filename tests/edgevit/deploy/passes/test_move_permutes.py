"""Permutations that cancel through elementwise operations, and those that stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.passes.move_permutes import MOVE_PERMUTES
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (2, 6, 4, 5)


def _tokens(x):
    return x.flatten(2).transpose(1, 2)


def _map(tokens):
    return tokens.transpose(1, 2).reshape(_MAP)


def _network(function) -> Function:
    return Function(
        function,
        conv=nn.Conv2d(6, 6, 1),
        linear=nn.Linear(6, 6),
        gain=nn.Parameter(torch.rand(6)),
        position=nn.Parameter(torch.rand(1, 20, 6)),
    )


_CANCELLING = {
    "activation": lambda net, x: _map(torch.relu(_tokens(x))),
    "activation channels-last": lambda net, x: torch.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "sum of two": lambda net, x: _map(_tokens(x.exp()) + _tokens(net.conv(x))),
    "gain per channel": lambda net, x: _map(_tokens(x) * net.gain + 1.0),
    "position": lambda net, x: _map(_tokens(x) + net.position),
    "computed gate": lambda net, x: _map(_tokens(x) * x.mean((2, 3)).reshape(2, 1, 6).sigmoid()),
    "several": lambda net, x: net.conv(_map(torch.sigmoid(t := _tokens(x)) * t)) + _map(t.tanh()),
    "softened transposes": lambda net, x: torch.relu(x.transpose(1, 2)).transpose(1, 2),
}


@pytest.mark.parametrize("name", _CANCELLING)
def test_permutes_cancel_through_elementwise_operations(name):
    module = _network(_CANCELLING[name])
    graph = graph_of(module, _MAP)
    assert len(MOVE_PERMUTES.apply(graph, XNNPACK)) == 1
    counts = ops(graph)
    assert counts["permute.default"] + counts["transpose.int"] == 0
    assert error(graph, module, _MAP) <= 1e-6


def test_one_permutation_stands_for_two_of_a_sum():
    module = _network(lambda net, x: net.linear(x.exp().permute(0, 2, 3, 1) + net.conv(x).permute(0, 2, 3, 1)))
    graph = graph_of(module, _MAP)
    assert len(MOVE_PERMUTES.apply(graph, XNNPACK)) == 1
    assert ops(graph)["permute.default"] == 1
    assert error(graph, module, _MAP) <= 1e-6


def test_permuted_result_that_is_read_too_is_permuted_once():
    def function(net, x):
        tokens = torch.relu(x.permute(0, 2, 3, 1))
        return net.linear(tokens).mean() * tokens.permute(0, 3, 1, 2)

    module = _network(function)
    graph = graph_of(module, _MAP)
    assert len(MOVE_PERMUTES.apply(graph, XNNPACK)) == 1
    assert ops(graph)["permute.default"] == 1
    assert error(graph, module, _MAP) <= 1e-6


def test_square_axes_are_distinguished():
    module = Function(lambda net, x: torch.relu(x.transpose(1, 2)).transpose(1, 3))
    graph = graph_of(module, (2, 4, 4, 4))
    MOVE_PERMUTES.apply(graph, XNNPACK)
    assert error(graph, module, (2, 4, 4, 4)) == 0.0


_STAYING = {
    "one end": lambda net, x: net.linear(torch.relu(x.permute(0, 2, 3, 1))),
    "product between": lambda net, x: net.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "softmax between": lambda net, x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2),
    "another view": lambda net, x: net.linear(x.permute(0, 2, 3, 1) + x.exp().reshape(2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", _STAYING)
def test_near_miss_stays_as_it_was(name):
    assert changes_nothing(MOVE_PERMUTES, _network(_STAYING[name]), _MAP)
