"""Copies of concatenated maps that others read too."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.deploy.passes.isolate_concat_inputs import ISOLATE_CONCAT_INPUTS
from edgevit.quantization.annotation import annotate
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (1, 4, 6, 6)


def test_map_that_is_read_elsewhere_keeps_its_own_qparams():
    def function(net, x):
        skip = net.a(x)
        return net.c(torch.cat([skip, net.b(skip).exp()], 1))

    net = Function(function, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(8, 2, 1))
    graph = graph_of(net, _MAP)
    assert len(ISOLATE_CONCAT_INPUTS.apply(graph, XNNPACK)) == 1
    assert ops(graph)["conv2d.default"] == 4
    assert error(graph, net, _MAP) <= 1e-6
    for group in annotate(graph).shared:
        assert "conv2d" not in group


def test_other_concatenations_stay():
    alone = Function(lambda net, x: torch.cat([net.a(x), x.exp()], 1), a=nn.Conv2d(4, 4, 1))
    assert changes_nothing(ISOLATE_CONCAT_INPUTS, alone, _MAP)
    rows = Function(lambda net, x: torch.cat([(y := x.exp()), y.sin()], 2))
    assert changes_nothing(ISOLATE_CONCAT_INPUTS, rows, _MAP)
    ring = Function(lambda net, x: torch.cat([(y := x.exp())[:, -1:], y, y[:, :1]], 1))
    assert changes_nothing(ISOLATE_CONCAT_INPUTS, ring, _MAP)
