"""The numbers of a graph, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.contract.manifest import GraphFacts
from edgevit.deploy.passes.remove_noops import REMOVE_NOOPS
from edgevit.graph.explain import graph_facts
from tests.edgevit.deploy.rewriting import XNNPACK, Function, graph_of

_MAP = (1, 4, 8, 6)


@pytest.mark.parametrize(
    ("module", "shape", "facts"),
    [
        (nn.Conv2d(4, 5, 3), _MAP, GraphFacts(1, 5 * 6 * 4 * 4 * 9, 0, 0)),
        (nn.Conv2d(4, 6, 3, padding="same", groups=2), _MAP, GraphFacts(1, 6 * 48 * 2 * 9, 0, 0)),
        (nn.Conv2d(4, 8, (3, 5), stride=2, groups=4), _MAP, GraphFacts(1, 8 * 3 * 1 * 15, 15, 0)),
        (nn.Conv1d(4, 5, 3), (1, 4, 10), GraphFacts(1, 5 * 8 * 4 * 3, 0, 0)),
        (nn.Linear(4, 5), (2, 3, 4), GraphFacts(1, 2 * 3 * 5 * 4, 0, 0)),
        (nn.BatchNorm2d(4), _MAP, GraphFacts(1, 0, 0, 0)),  # its result's parts are no operations
        (nn.GELU(), _MAP, GraphFacts(1, 0, 0, 0)),
    ],
    ids=["convolution", "grouped", "depthwise", "1d", "linear", "norm", "activation"],
)
def test_one_operation(module, shape, facts):
    assert graph_facts(graph_of(nn.Sequential(module), shape)) == facts


def test_products_of_results_and_transposes():
    module = Function(lambda net, x, y: torch.bmm(x, y.transpose(1, 2)).permute(1, 2, 0))
    assert graph_facts(graph_of(module, (2, 3, 4), (2, 5, 4))) == GraphFacts(3, 2 * 3 * 5 * 4, 0, 2)


def test_largest_depthwise_kernel_counts_and_rewrites_show():
    module = nn.Sequential(nn.Conv2d(4, 4, 7, groups=4), nn.Conv2d(4, 4, 1, groups=4), nn.ReLU())
    graph = graph_of(module, (1, 4, 9, 9))
    before = graph_facts(graph)
    assert (before.operations, before.depthwise_taps) == (3, 49)
    relu = next(graph.calls(torch.ops.aten.relu.default))
    graph.replace(relu, relu.args[0])
    REMOVE_NOOPS.apply(graph, XNNPACK)
    assert graph_facts(graph).operations == 2
