"""SiLU as a product with a sigmoid."""

from __future__ import annotations

import torch.nn.functional as F

from edgevit.deploy.passes.decompose_silu import DECOMPOSE_SILU
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (1, 4, 5, 3)


def test_silu_becomes_a_product_with_its_sigmoid():
    net = Function(lambda net, x: F.silu(F.silu(x).exp()))
    graph = graph_of(net, _MAP)
    assert len(DECOMPOSE_SILU.apply(graph, XNNPACK)) == 2
    assert ops(graph) == {"sigmoid.default": 2, "mul.Tensor": 2, "exp.default": 1}
    assert error(graph, net, _MAP) <= 1e-6


def test_other_gates_stay():
    assert changes_nothing(DECOMPOSE_SILU, Function(lambda net, x: x * F.hardsigmoid(x) + F.gelu(x)), _MAP)
