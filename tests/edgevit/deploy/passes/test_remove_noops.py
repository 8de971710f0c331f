"""Operations that change nothing: taken out; those that look like it stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.passes.remove_noops import REMOVE_NOOPS
from edgevit.graph.capture import capture, example_input, functional
from edgevit.graph.edit import Graph
from tests.edgevit.deploy.rewriting import XNNPACK, Function, ops

_MAP = (2, 6, 4, 5)


def _graph(module: nn.Module) -> Graph:
    return Graph(functional(capture(module.eval(), (example_input(_MAP),), "net")))


def _left(function, module: nn.Module | None = None) -> dict[str, int]:
    """Operations left of a function, whose output must be the same to the bit."""
    module = Function(function) if module is None else module
    graph = _graph(module)
    REMOVE_NOOPS.apply(graph, XNNPACK)
    x = example_input(_MAP, seed=2)
    assert torch.equal(graph.module(x), module(x))
    return dict(ops(graph))


_NOTHING_LEFT = {
    "dropout": lambda net, x: nn.functional.dropout(x, 0.3, training=False),
    "dropout of nothing": lambda net, x: nn.functional.dropout(x, 0.0, training=True),
    "copies": lambda net, x: x.clone().contiguous().detach(),
    "views": lambda net, x: x.flatten(1).reshape(2, 3, -1).view(_MAP),
    "axis and back": lambda net, x: x.unsqueeze(2).squeeze(2),
    "expand to its own shape": lambda net, x: x.expand(-1, -1, -1, -1),
    "whole slice": lambda net, x: x[:, 0:6, ...],
    "permutations that cancel": lambda net, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "transposes that cancel": lambda net, x: x.transpose(1, -1).transpose(3, 1),
    "three permutations": lambda net, x: x.permute(0, 2, 3, 1).permute(0, 2, 3, 1).permute(0, 2, 3, 1),
    "cat of one": lambda net, x: torch.cat([x], 1),
}


@pytest.mark.parametrize("name", _NOTHING_LEFT)
def test_nothing_is_left_of(name):
    assert _left(lambda net, x: _NOTHING_LEFT[name](net, x).exp()) == {"exp.default": 1}


def test_two_permutations_are_one_and_two_views_are_one():
    assert _left(lambda net, x: x.permute(0, 2, 3, 1).transpose(0, 1).exp()) == {"permute.default": 1, "exp.default": 1}
    assert _left(lambda net, x: x.flatten(2).unsqueeze(1).exp()) == {"reshape.default": 1, "exp.default": 1}


def test_permutation_of_axes_of_size_1_is_a_view():
    assert _left(lambda net, x: x.mean(1, keepdim=True).permute(0, 2, 3, 1).exp()) == {
        "mean.dim": 1,
        "reshape.default": 1,
        "exp.default": 1,
    }


def test_view_with_another_reader_stays_for_it():
    left = _left(lambda net, x: (lambda y: y.exp().sum() + y.reshape(_MAP).cos())(x.flatten(1)))
    assert (left["reshape.default"], left["cos.default"]) == (1, 1)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda net, x: x[:, 1:].exp(), "slice.Tensor"),
        (lambda net, x: x[:, ::2].exp(), "slice.Tensor"),
        (lambda net, x: x.mean(1, keepdim=True).expand(_MAP).exp(), "expand.default"),
        (lambda net, x: x.transpose(2, 3).exp(), "transpose.int"),
        (lambda net, x: torch.cat([x, x], 1).exp(), "cat.default"),
    ],
    ids=["part", "step", "expand", "transpose", "cat of two"],
)
def test_what_changes_something_stays(function, operation):
    assert _left(function)[operation] == 1


def test_dropout_that_drops_stays():
    graph = _graph(nn.Sequential(nn.ReLU(), nn.GELU()))
    first, last = list(graph.calls(torch.ops.aten.relu.default, torch.ops.aten.gelu.default))
    dropout = torch.ops.aten.dropout.default
    drops = graph.call(dropout, first, 0.5, True, like=last)
    keeps = graph.call(dropout, drops, 0.0, True, like=last)
    last.args = (keeps,)
    assert REMOVE_NOOPS.apply(graph, XNNPACK) == ["1"]
    assert last.args == (drops,)


def test_output_that_is_the_input_is_kept():
    graph = _graph(nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Unflatten(1, _MAP[1:])))
    REMOVE_NOOPS.apply(graph, XNNPACK)
    x = example_input(_MAP)
    assert torch.equal(graph.module(x), x)
