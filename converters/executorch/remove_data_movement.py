"""Removes redundant transposes and reshapes from an XNNPACK delegate's graph before it is written.

ExecuTorch keeps feature maps channels-last inside the delegate and brings them back to NCHW with a transpose wherever
the network asks for another view, even if that view would have been channels-last again. In the delegate's graph all
shapes are as the data lies, so what cancels can be seen there: pairs of transposes, transposes that only move axes
of size 1, reshapes of reshapes, and a transposed second factor of a matrix product, which XNNPACK takes as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from converters.executorch.values import input_names, kind, tensor
from edgevit.compat.executorch import graph_schema

# xnnpack.h: the second operand of xnn_define_batch_matrix_multiply is (..., N, K).
_TRANSPOSE_B = 1
# Operations with int8 kernels that ExecuTorch has no int8 form for: functions, which XNNPACK makes tables of, and
# bilinear upsampling, which keeps the quantization parameters.
_IN_INTEGERS = ("XNNGelu", "XNNSigmoid", "XNNTanh", "XNNHardswish", "XNNStaticResizeBilinear2D")


@dataclasses.dataclass
class DataMovementRemover:
    """Removes redundant data movement from graphs, and counts the transposes left in all delegates together."""

    transposes: int = 0

    def rewrite(self, graph: Any, store: Any) -> None:
        """Simplify a graph that is about to be written; it keeps its constants."""
        simplify(graph)
        self.transposes += sum(kind(node) == "XNNStaticTranspose" for node in graph.xnodes)


def simplify(graph: Any) -> None:
    """Remove redundant data movement from an executorch XNNGraph, in place. Results stay bit-exact."""
    simplifier = _Simplifier(graph)
    for node in graph.xnodes:
        simplifier.shorten(node)
    simplifier.drop_unread()


class _Simplifier:
    """The producer of each value, and rewrites of nodes that keep what every value holds."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._shapes = {value.id_out: tuple(value.dims) for value in map(tensor, graph.xvalues)}
        self._producers = {node.xnode_union.output_id: node for node in graph.xnodes}
        self._same: dict[int, int] = {}  # a value -> the value that holds the same data in the same shape

    def shorten(self, node: Any) -> None:
        """Let a node read from as early a producer as it can; nodes come in execution order."""
        operation = node.xnode_union
        for name in input_names(operation):
            value = getattr(operation, name)
            setattr(operation, name, self._same.get(value, value))
        name = kind(node)
        if name == "XNNStaticTranspose":
            self._shorten_transpose(node)
        elif name == "XNNStaticReshape":
            self._shorten_reshape(operation)
        elif name == "XNNBatchMatrixMultiply":
            self._take_transposed(operation)
        elif name == "XNNConvert":
            self._compute_in_int8(node)

    def drop_unread(self) -> None:
        """Nodes whose results lead to no output, and the values that are left over."""
        graph = self._graph
        needed = set(graph.output_ids)
        kept = []
        for node in reversed(graph.xnodes):
            operation = node.xnode_union
            if operation.output_id in needed:
                kept.append(node)
                needed.update(getattr(operation, name) for name in input_names(operation))
        needed.update(graph.input_ids)
        graph.xnodes[:] = reversed(kept)
        graph.xvalues[:] = [value for value in graph.xvalues if tensor(value).id_out in needed]

    def _shorten_transpose(self, node: Any) -> None:
        operation = node.xnode_union
        source = self._operation(operation.input_id, "XNNStaticTranspose")
        if source is not None:
            operation.perm = [source.perm[axis] for axis in operation.perm]
            operation.input_id = source.input_id
        shape = self._shapes[operation.input_id]
        moved = [axis for axis in operation.perm if shape[axis] != 1]
        if moved == sorted(moved):
            node.xnode_union = self._reshape(operation)
            self._shorten_reshape(node.xnode_union)

    def _shorten_reshape(self, operation: Any) -> None:
        source = self._operation(operation.input_id, "XNNStaticReshape")
        if source is not None:
            operation.input_id = source.input_id
        same = self._shapes[operation.input_id] == self._shapes[operation.output_id]
        if same and operation.output_id not in self._graph.output_ids:
            self._same[operation.output_id] = operation.input_id

    def _take_transposed(self, operation: Any) -> None:
        """right = transpose(x) of its last two axes: multiply by x as it lies."""
        source = self._operation(operation.input2_id, "XNNStaticTranspose")
        if source is None or operation.flags & _TRANSPOSE_B:
            return
        rank = len(source.perm)
        if list(source.perm) == [*range(rank - 2), rank - 1, rank - 2]:
            operation.input2_id = source.input_id
            operation.flags |= _TRANSPOSE_B

    def _compute_in_int8(self, node: Any) -> None:
        """int8 to float, one operation, float to int8: that operation on int8."""
        convert = node.xnode_union
        operation = self._operation(convert.input_id, *_IN_INTEGERS)
        if operation is None:
            return
        dequantize = self._operation(operation.input_id, "XNNConvert")
        if dequantize is not None:
            node.xnode_union = dataclasses.replace(operation, input_id=dequantize.input_id, output_id=convert.output_id)

    def _reshape(self, transpose: Any) -> Any:
        shape = self._shapes[transpose.output_id]
        return graph_schema().XNNStaticReshape(
            num_dims=len(shape),
            new_shape=list(shape),
            input_id=transpose.input_id,
            output_id=transpose.output_id,
            flags=0,
        )

    def _operation(self, value: int, *kinds: str) -> Any:
        """The operation of one of the kinds that makes a value, else None."""
        node = self._producers.get(value)
        return node.xnode_union if node is not None and kind(node) in kinds else None
