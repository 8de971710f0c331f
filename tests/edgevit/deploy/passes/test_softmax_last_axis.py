"""Softmax over axes that are not the last."""

from __future__ import annotations

import pytest

from edgevit.deploy.cost_model import read_costs
from edgevit.deploy.passes.simplify_views import SIMPLIFY_VIEWS
from edgevit.deploy.passes.softmax_last_axis import SOFTMAX_LAST_AXIS
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_SHAPE = (2, 3, 5, 4)


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -4])
def test_softmax_moves_to_the_last_axis_and_stays_exact(axis):
    module = Function(lambda net, x: x.softmax(axis))
    graph = graph_of(module, _SHAPE)
    assert len(SOFTMAX_LAST_AXIS.apply(graph, XNNPACK)) == 1
    assert ops(graph) == {"transpose.int": 2, "softmax.int": 1}
    (softmax,) = (node for node in graph.module.graph.nodes if "softmax" in str(node.target))
    assert softmax.args[1] == 3
    assert error(graph, module, _SHAPE) <= 1e-6


def test_transposes_cancel_with_their_neighbours():
    module = Function(lambda net, x: x.transpose(2, 3).softmax(2).transpose(2, 3))
    graph = graph_of(module, _SHAPE)
    SOFTMAX_LAST_AXIS.apply(graph, XNNPACK)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert ops(graph) == {"softmax.int": 1}
    assert error(graph, module, _SHAPE) <= 1e-6


@pytest.mark.parametrize("axis", [3, -1])
def test_softmax_over_the_last_axis_stays(axis):
    assert changes_nothing(SOFTMAX_LAST_AXIS, Function(lambda net, x: x.softmax(axis)), _SHAPE)


def test_softmax_stays_where_every_axis_is_as_fast():
    assert changes_nothing(SOFTMAX_LAST_AXIS, Function(lambda net, x: x.softmax(1)), _SHAPE, costs=read_costs("coreml"))
