"""What a pass changed, in numbers: the graph before and after it."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

from edgevit.contract.manifest import GraphFacts
from edgevit.graph.edit import Graph, argument, elements, is_call, shape

if TYPE_CHECKING:
    from torch import fx


def graph_facts(graph: Graph) -> GraphFacts:
    """Operations, multiply-accumulates of products, taps of the largest depthwise kernel, transposes."""
    import torch

    aten = torch.ops.aten
    calls = [node for node in graph.nodes if node.op == "call_function" and not is_call(node, operator.getitem)]
    depthwise = [shape(node.args[1]) for node in calls if _is_depthwise(node)]
    return GraphFacts(
        operations=len(calls),
        macs=sum(map(_macs, calls)),
        depthwise_taps=max((math.prod(kernel[2:]) for kernel in depthwise), default=0),
        transposes=sum(is_call(node, aten.permute.default, aten.transpose.int) for node in calls),
    )


def _macs(node: fx.Node) -> int:
    """Multiplications and additions of one convolution or matrix product."""
    import torch

    aten = torch.ops.aten
    if is_call(node, aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.linear.default):
        return elements(node) * math.prod(shape(node.args[1])[1:])
    if is_call(node, aten.bmm.default, aten.mm.default, aten.matmul.default):
        return elements(node) * shape(node.args[0])[-1]
    return 0


def _is_depthwise(node: fx.Node) -> bool:
    import torch

    is_convolution = is_call(node, torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
    return is_convolution and argument(node, 6, 1) > 1 and shape(node.args[1])[1] == 1
