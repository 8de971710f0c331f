"""Chains of reshapes and permutations in their cheapest form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.passes.simplify_views import SIMPLIFY_VIEWS
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (2, 6, 4, 8)


def _partition(x, side):
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(batch, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)


def _swap_rows(x, *sizes):
    """Rows 0, 1, 2, 3 in the order 0, 2, 1, 3, its own inverse; `sizes` are those in front of the rows."""
    axes = range(len(sizes))
    return x.reshape(*sizes, 2, 2, 8).permute(*axes, len(sizes) + 1, len(sizes), len(sizes) + 2).reshape(x.shape)


def _patch_merge(x):
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, 4 * channels, height // 2, width // 2)


_CHAINS = {
    "map to tokens": (lambda net, x: x.flatten(2).transpose(1, 2), ["permute.default", "reshape.default"]),
    "tokens to map": (
        lambda net, x: x.flatten(2).transpose(1, 2).exp().transpose(1, 2).reshape(_MAP),
        ["permute.default", "reshape.default", "exp.default", "reshape.default", "permute.default"],
    ),
    "there and back": (
        lambda net, x: x.flatten(2).transpose(1, 2).reshape(2, 4, 8, 6).permute(0, 3, 1, 2) + x,
        ["add.Tensor"],
    ),
    "windows": (
        lambda net, x: _partition(x, 2),
        ["permute.default", "reshape.default", "permute.default", "reshape.default"],
    ),
    "rows and back": (lambda net, x: _swap_rows(_swap_rows(x, 2, 6), 12).exp(), ["exp.default"]),
    "patch merge": (lambda net, x: _patch_merge(x), ["reshape.default", "permute.default", "reshape.default"]),
    "class token": (lambda net, x: x.flatten(2)[:, 0], ["reshape.default", "slice.Tensor", "reshape.default"]),
    "last token": (lambda net, x: x.flatten(2)[:, -1], ["reshape.default", "slice.Tensor", "reshape.default"]),
    "mean of tokens": (lambda net, x: x.flatten(2).transpose(1, 2).mean(1), ["mean.dim", "reshape.default"]),
    "mean of tokens kept": (
        lambda net, x: x.flatten(2).transpose(1, 2).mean(dim=-2, keepdim=True),
        ["mean.dim", "reshape.default"],
    ),
}


@pytest.mark.parametrize("name", _CHAINS)
def test_chain_takes_its_cheapest_form_and_stays_exact(name):
    function, expected = _CHAINS[name]
    module = Function(function)
    graph = graph_of(module, _MAP)
    assert len(SIMPLIFY_VIEWS.apply(graph, XNNPACK)) > 0
    calls = [node for node in graph.module.graph.nodes if node.op == "call_function"]
    assert [str(node.target).removeprefix("aten.") for node in calls] == expected
    assert all(node.meta["val"].dim() <= 5 for node in calls)
    assert error(graph, module, _MAP) <= (1e-6 if "mean" in name else 0.0)


def test_batch_of_one_moves_nothing_where_only_ones_change_places():
    module = Function(lambda net, x: x.permute(1, 0, 2).reshape(1, 5, 2, 3).exp())
    graph = graph_of(module, (1, 5, 6))
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert ops(graph) == {"reshape.default": 1, "exp.default": 1}


def test_view_that_others_read_is_not_made_twice():
    def function(net, x):
        heads = x.reshape(2, 4, 6, 8)
        return heads.transpose(1, 2).reshape(2, 6, 32).exp() @ heads.reshape(2, 32, 6)

    graph = graph_of(Function(function), (2, 24, 8))
    before = ops(graph)["transpose.int"]
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert (before, ops(graph)["transpose.int"] + ops(graph)["permute.default"]) == (1, 1)


def test_tokens_that_are_read_both_ways_come_from_the_pixels():
    def function(net, x):
        tokens = x.flatten(2)
        return tokens.transpose(1, 2) @ tokens

    module = Function(function)
    graph = graph_of(module, _MAP)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    (permute,) = graph.calls(torch.ops.aten.permute.default)
    assert permute.args[1] == [0, 2, 3, 1]
    assert error(graph, module, _MAP) <= 1e-6


_NEAR_MISSES = {
    "heads": lambda net, x: x.flatten(2).reshape(2, 6, 4, 8).permute(0, 2, 1, 3).exp(),
    "cut through an axis": lambda net, x: x.transpose(2, 3).reshape(2, 6, 16, 2),
    "mean over channels": lambda net, x: x.permute(0, 2, 3, 1).mean(-1),
    "mean over rows": lambda net, x: x.permute(0, 2, 3, 1).mean(1),
    "slice": lambda net, x: x[:, 1:3],
    # A product takes its right factor as it lies.
    "right factor": lambda net, x: torch.bmm(x.flatten(2), x.exp().reshape(2, 6, 32).transpose(1, 2)),
    "right factor of heads": lambda net, x: torch.bmm(x.flatten(2)[:, :, :8], x.reshape(2, 24, 8).transpose(1, 2)),
}


@pytest.mark.parametrize("name", _NEAR_MISSES)
def test_near_miss_stays_as_it_was(name):
    assert changes_nothing(SIMPLIFY_VIEWS, Function(_NEAR_MISSES[name]), _MAP)


def test_two_views_of_one_permutation_share_it():
    def function(net, x):
        tokens = x.permute(0, 2, 3, 1)
        return net.first(tokens.reshape(2, 32, 6)) + net.second(tokens.reshape(2, 32, 6) * 2)

    module = Function(function, first=nn.Linear(6, 3), second=nn.Linear(6, 3))
    graph = graph_of(module, _MAP)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert ops(graph)["permute.default"] == 1
    assert error(graph, module, _MAP) <= 1e-6


def test_index_into_an_axis_of_size_1_is_a_reshape():
    module = Function(lambda net, x: torch.relu(x[:, :1][:, 0]))
    graph = graph_of(module, _MAP)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert ops(graph) == {"slice.Tensor": 1, "reshape.default": 1, "relu.default": 1}


@pytest.mark.parametrize(
    "parts",
    [lambda x: x.chunk(3, 1), lambda x: x.split((1, 2, 3), 1), lambda x: x.split(4, -1)],
    ids=["chunk", "sizes", "size"],
)
def test_parts_of_a_split_become_slices(parts):
    module = Function(lambda net, x: sum(part.exp().sum() * (1 + i) for i, part in enumerate(parts(x))))
    graph = graph_of(module, _MAP)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert not {name for name in ops(graph) if name.startswith(("split", "chunk", "<built-in"))}
    assert error(graph, module, _MAP) <= 1e-5
