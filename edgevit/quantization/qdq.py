"""Quantize and dequantize pairs in a deployed graph: the one form of the int8 network that every target starts from.

Weights become int8 constants behind `dequantize_per_channel`; each quantized tensor is quantized once and dequantized
for each user by a node of its own, as XNNPACK's partitioner needs it. The pair is repeated after data movement, so that
it moves int8.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import qdq_operations
from edgevit.errors import QuantizationError
from edgevit.graph.edit import Graph, node_of, place, source_of
from edgevit.quantization.annotation import annotate, is_move
from edgevit.quantization.qparams import HIGH, LOW, WEIGHT_HIGH, WEIGHT_LOW, QParams, QParamsTable, QuantizedWeight

if TYPE_CHECKING:
    from torch import fx


def insert_qdq(deployed: fx.GraphModule, table: QParamsTable) -> fx.GraphModule:
    """A copy of the deployed graph with a Q/DQ pair at every tensor of `table`, in float arithmetic.

    Raises QuantizationError if the table belongs to another graph.
    """
    graph = Graph(copy.deepcopy(deployed))
    annotation = annotate(graph, table.float_fallback)
    _require_same(annotation.quantized, table.activations, "tensors")
    _require_same(annotation.weighted, table.weights, "weights")
    for node in annotation.weighted:
        store_weight(graph, node, table.weights[node.name])
    known = {node: table.activations[node.name] for node in annotation.quantized}
    for node in graph.nodes:
        if is_move(node) and source_of(node) in known:
            known[node] = known[source_of(node)]
    for node, qparams in known.items():
        _quantize(graph, node, qparams)
    graph.tidy()
    return graph.module


def store_weight(graph: Graph, node: fx.Node, weight: QuantizedWeight) -> None:
    """Let a layer read its weight as int8 constants behind `dequantize_per_channel`."""
    import torch

    quantized = qdq_operations()
    constant = node_of(node.args[1])
    stem = constant.name
    first = next(iter(graph.module.graph.nodes))
    stored = []
    values, scales = torch.from_numpy(weight.int_repr), torch.from_numpy(weight.scales)
    zeros = torch.zeros(len(weight.scales), dtype=torch.int8)  # of the values' type: iOS16 cannot cast others to it
    for kind, value in (("values", values), ("scales", scales), ("zero_points", zeros)):
        name = f"{stem}_{kind}"
        graph.module.register_buffer(name, value)
        with graph.module.graph.inserting_before(first):
            stored.append(graph.module.graph.get_attr(name))
        stored[-1].meta["val"] = value.to("meta")
    real = graph.call(
        quantized.dequantize_per_channel.default, *stored, 0, WEIGHT_LOW, WEIGHT_HIGH, torch.int8, like=node
    )
    node.replace_input_with(constant, real)


def _quantize(graph: Graph, node: fx.Node, qparams: QParams) -> None:
    import torch

    quantized = qdq_operations()
    numbers = (qparams.scale, qparams.zero_point, LOW, HIGH, torch.int8)
    users = list(node.users)
    following = node.next
    with graph.module.graph.inserting_before(following):
        stored = graph.module.graph.call_function(quantized.quantize_per_tensor.default, (node, *numbers))
    _describe(stored, node, torch.int8)
    for user in users:
        with graph.module.graph.inserting_before(user):
            real = graph.module.graph.call_function(quantized.dequantize_per_tensor.default, (stored, *numbers))
        _describe(real, node, torch.float32)
        user.replace_input_with(node, real)


def _describe(node: fx.Node, like: fx.Node, dtype: Any) -> None:
    node.meta["val"] = like.meta["val"].to(dtype)
    for key in ("nn_module_stack", "stack_trace"):
        if key in like.meta:
            node.meta[key] = like.meta[key]


def _require_same(nodes: tuple[fx.Node, ...], known: Any, kind: str) -> None:
    """The nodes of the graph and of the table; a difference means another network, or another version of edgevit."""
    names = {node.name for node in nodes}
    if names != set(known):
        missing = [f"{node.name} at {place(node)}" for node in nodes if node.name not in known]
        raise QuantizationError(
            f"the scales belong to another graph: {len(missing)} {kind} without scales ({', '.join(missing[:4])}), "
            f"{len(set(known) - names)} scales without {kind}",
            fix="quantize again with this version of edgevit",
        )
