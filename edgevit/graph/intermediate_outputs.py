"""A program with intermediate activations as additional outputs, to be lowered like the original."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgevit.compat.torch import with_returned
from edgevit.graph.edit import argument

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

_LOW, _HIGH = -128, 127


def with_outputs(exported: ExportedProgram, nodes: Sequence[str]) -> ExportedProgram:
    """A copy of the program that also returns the values of `nodes`, in their order after its own outputs.

    Quantized values are returned dequantized, as all outputs of the network are, so that a delegate keeps its kernels.
    """
    from torch.export import graph_signature

    graph_module = copy.deepcopy(exported.graph_module)
    known = {node.name: node for node in graph_module.graph.nodes}
    (returned,) = graph_module.graph.find_nodes(op="output")
    added = [_readable(graph_module.graph, known[name], returned) for name in nodes]
    returned.args = ((*returned.args[0], *added),)
    graph_module.recompile()
    specs = list(exported.graph_signature.output_specs)
    kind = graph_signature.OutputKind.USER_OUTPUT
    specs += [graph_signature.OutputSpec(kind, graph_signature.TensorArgument(node.name), None) for node in added]
    return with_returned(exported, graph_module, specs)


def integers(exported: ExportedProgram, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values that such a program returned, by node: integers again for quantize nodes."""
    nodes = {node.name: node for node in exported.graph.nodes}
    return {name: _quantized(nodes[name], value) for name, value in values.items()}


def _readable(graph: fx.Graph, node: fx.Node, before: fx.Node) -> fx.Node:
    import torch

    if not _quantizes(node):
        return node
    with graph.inserting_before(before):
        operation = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        real = graph.call_function(operation, (node, *node.args[1:]))
    real.meta = {**node.meta, "val": node.meta["val"].to(torch.float32)}
    return real


def _quantized(node: fx.Node, value: np.ndarray) -> np.ndarray:
    if not _quantizes(node):
        return value
    scale, zero_point = argument(node, 1), argument(node, 2)
    return np.clip(np.rint(value.astype(np.float64) / scale) + zero_point, _LOW, _HIGH).astype(np.int8)


def _quantizes(node: fx.Node) -> bool:
    return str(node.target) == "quantized_decomposed.quantize_per_tensor.default"
