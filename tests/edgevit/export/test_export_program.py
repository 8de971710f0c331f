"""What export leaves for converters to read."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgevit.export.export_program import export
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import segmenter_spec


def test_pools_say_their_stride():
    net = Function(lambda net, x: F.interpolate(F.max_pool2d(x, 2)[:, :2], scale_factor=2)).eval()
    graph = export(net, segmenter_spec()).exported.graph
    (pool,) = graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default)
    assert list(pool.args[2]) == list(pool.args[1]) == [2, 2]
