"""Equal calls are one call; calls that only look alike stay two."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.deploy.passes.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (1, 4, 5, 5)


def _conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def test_whole_branches_are_merged():
    module = Function(lambda net, x: net.conv(x).relu().mean((2, 3)) * net.conv(x).relu().amax((2, 3)), conv=_conv())
    graph = graph_of(module, _MAP)
    assert len(ELIMINATE_COMMON_SUBEXPRESSIONS.apply(graph, XNNPACK)) == 2
    assert ops(graph) == {"conv2d.default": 1, "relu.default": 1, "mean.dim": 1, "amax.default": 1, "mul.Tensor": 1}
    assert error(graph, module, _MAP) == 0


def test_result_with_several_parts_is_merged():
    module = Function(lambda net, x: net.norm(x).relu() + net.norm(x).exp(), norm=nn.BatchNorm2d(4))
    graph = graph_of(module, _MAP)
    assert (
        len(ELIMINATE_COMMON_SUBEXPRESSIONS.apply(graph, XNNPACK)) == 2
    )  # the norm, and the part of its result that is read
    assert ops(graph)["_native_batch_norm_legit_no_training.default"] == 1
    assert error(graph, module, _MAP) == 0


def test_other_operands_options_and_types_stay_apart():
    for function in (
        lambda net, x: net.a(x) + net.b(x),
        lambda net, x: net.a(x) + net.a(x.relu()),
        lambda net, x: x.softmax(1) + x.softmax(2),
        lambda net, x: torch.add(x, 1.5, alpha=2) * torch.add(x, 1.5, alpha=3),
        lambda net, x: x.div(x.shape[1]) - x.div(float(x.shape[2])),
        lambda net, x: (x + 1) * (x + 1.0),
    ):
        assert changes_nothing(ELIMINATE_COMMON_SUBEXPRESSIONS, Function(function, a=_conv(), b=_conv()), _MAP)


def test_random_numbers_are_drawn_twice():
    assert changes_nothing(
        ELIMINATE_COMMON_SUBEXPRESSIONS, Function(lambda net, x: torch.rand_like(x) - torch.rand_like(x)), _MAP
    )
