"""Weights in fewer bits inside XNNPACK graphs: the delegate dequantizes them while packing, at no run-time cost.

XNNPACK computes in float32 with constant weights of float16, in convolutions and linear layers, and of int8 with a
scale per channel, in linear layers alone. So a depthwise convolution with a float16 weight is written as one of as
many groups as channels, and a convolution with an int8 weight as a linear layer over the im2col of its input. No
processor needs float16 arithmetic for either.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.executorch.im2col import im2col
from converters.executorch.serializing import add_constant, drop_unused_constants, stored_constant
from converters.executorch.values import add_value, input_names, kind, tensor
from edgevit.compat.executorch import fold_constants, graph_schema, no_value
from edgevit.errors import ConversionError
from edgevit.quantization.qparams import QuantizedWeight
from edgevit.quantization.weight_storage import HALF_FROM_ELEMENTS, LARGEST_HALF

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_WEIGHTED = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")

# By the digest of the float32 weight (O, kH, kW, I) or (O, I) that each stands for.
WeightsByDigest = Mapping[bytes, QuantizedWeight]


def take_quantized_weights(exported: ExportedProgram) -> tuple[ExportedProgram, WeightsByDigest]:
    """The program with its int8 weights as the float32 ones that they stand for, and their quantization."""
    import torch

    dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
    names = exported.graph_signature.inputs_to_buffers
    weights = {}
    for node in exported.graph.find_nodes(op="call_function", target=dequantize):
        values, scales = (exported.state_dict[names[constant.name]] for constant in node.args[:2])
        weight = QuantizedWeight(values.numpy(), scales.numpy())
        weights[_digest(_channels_last(weight.dequantize()))] = weight
    if not weights:
        return exported, weights
    return fold_constants(copy.deepcopy(exported)), weights


def compress_weights(graph: Any, store: Any, *, qparams: WeightsByDigest, half: bool) -> None:
    """Let a graph that is about to be written store weights of `qparams` in int8; half: other large ones in float16.

    Raises ConversionError for a weight that float16 cannot hold.
    """
    if qparams or half:
        _Compression(graph, store, qparams, half).run()


class _Compression:
    """One graph; `store` holds the bytes behind its constants."""

    def __init__(self, graph: Any, store: Any, qparams: WeightsByDigest, half: bool) -> None:
        self._graph, self._store, self._qparams, self._half = graph, store, qparams, half
        self._values = {tensor(value).id_out: value for value in graph.xvalues}
        self._forms: dict[tuple[int, str], int] = {}  # a weight and its new form -> the value that holds it

    def run(self) -> None:
        """Rewrite the graph in place, and drop what has no user any more."""
        nodes = []
        for node in self._graph.xnodes:
            weighted = kind(node) in _WEIGHTED and self._is_float(node.xnode_union.filter_id)
            nodes += self._compressed(node) if weighted else [node]
        self._graph.xnodes[:] = nodes
        self._drop_unread()

    def _compressed(self, node: Any) -> list[Any]:
        """Let a layer read a weight in fewer bits if it shall; returns the nodes that stand in its place."""
        layer = node.xnode_union
        weight = self._constant(layer.filter_id)
        qparams = self._qparams.get(_digest(weight)) if kind(node) != "XNNDepthwiseConv2d" else None
        if qparams is not None:
            return self._quantized(node, qparams)
        if self._half and weight.size >= HALF_FROM_ELEMENTS:
            self._in_half(node, weight)
        return [node]

    def _quantized(self, node: Any, quantized: QuantizedWeight) -> list[Any]:
        schema = graph_schema()
        layer = node.xnode_union
        before: list[Any] = []
        source = layer.input1_id
        if kind(node) == "XNNConv2d":
            source, before = im2col(self._graph, layer)
        values = _channels_last(quantized.int_repr)
        matrix = values.reshape(len(values), -1)  # (O, kH kW I)
        scales = quantized.scales
        filter_id = self._once(layer.filter_id, "int8", lambda: self._add_int8(matrix, scales))
        bias_id = self._scaled_bias(layer.bias_id, scales)
        product = schema.XNNFullyConnected(source, filter_id, bias_id, layer.output_id, 0)
        return [*before, schema.XNode(product, node.debug_handle, node.output_min_max)]

    def _scaled_bias(self, bias_id: int, scales: np.ndarray) -> int:
        """These kernels begin their sum with the bias and multiply it all by the scale (O,): so divide by it before.

        An addition behind them would read its constant in place, which the runtime may have freed (see packing.py).
        """
        if bias_id == no_value():
            return bias_id
        bias = (self._constant(bias_id).astype(np.float64) / scales).astype(np.float32)
        form = f"over {hashlib.sha256(scales.tobytes()).hexdigest()}"
        return self._once(bias_id, form, lambda: add_value(self._graph, bias.shape, "fp32", self._add_bytes(bias)))

    def _in_half(self, node: Any, weight: np.ndarray) -> None:
        layer = node.xnode_union
        if kind(node) == "XNNDepthwiseConv2d":  # (1, kH, kW, O)
            groups, outputs = layer.groups, weight.shape[3]
            weight = weight.transpose(3, 1, 2, 0)
            fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
            shape = {"groups": groups, "group_input_channels": 1, "group_output_channels": outputs // groups}
            node.xnode_union = layer = graph_schema().XNNConv2d(**fields | shape)
        layer.filter_id = self._once(layer.filter_id, "half", lambda: self._add_half(weight))
        if layer.bias_id != no_value():  # read as float16 wherever the weight is
            bias = self._constant(layer.bias_id)
            layer.bias_id = self._once(layer.bias_id, "half", lambda: self._add_half(bias))

    def _once(self, constant: int, form: str, make: Callable[[], int]) -> int:
        """The value that holds a constant in a new form, made for the first layer that reads it."""
        if (constant, form) not in self._forms:
            self._forms[constant, form] = make()
        return self._forms[constant, form]

    def _add_half(self, constant: np.ndarray) -> int:
        largest = float(np.abs(constant).max())
        if not largest <= LARGEST_HALF:
            raise ConversionError(f"a weight of {largest:.3g} does not fit float16", fix="convert it in fp32")
        return add_value(self._graph, constant.shape, "fp16", self._add_bytes(constant.astype(np.float16)))

    def _add_int8(self, matrix: np.ndarray, scales: np.ndarray) -> int:
        buffers = self._add_bytes(matrix), self._add_bytes(scales)
        quantization = graph_schema().PerChannelQuant([], 0, buffers[1], len(scales))
        return add_value(self._graph, matrix.shape, "qcint8", buffers[0], quantization)

    def _add_bytes(self, array: np.ndarray) -> int:
        """Index of a constant buffer with the array's bytes; equal ones are stored once."""
        data = np.ascontiguousarray(array).tobytes()
        return add_constant(self._graph, self._store, hashlib.sha256(data).hexdigest(), data, len(data))

    def _drop_unread(self) -> None:
        """Values that no node reads, and bytes that no value has: the float32 weights."""
        replaced = {constant for constant, _ in self._forms}
        read = {
            getattr(node.xnode_union, name) for node in self._graph.xnodes for name in input_names(node.xnode_union)
        }
        self._graph.xvalues[:] = [v for v in self._graph.xvalues if tensor(v).id_out not in replaced - read]
        drop_unused_constants(self._graph, self._store)

    def _is_float(self, id_: int) -> bool:
        value = tensor(self._values[id_])
        return value.datatype.name == "xnn_datatype_fp32" and value.constant_buffer_idx > 0

    def _constant(self, id_: int) -> np.ndarray:
        value = tensor(self._values[id_])
        data = stored_constant(self._graph, self._store, value.constant_buffer_idx)
        return np.frombuffer(data, np.float32).reshape(value.dims)


def _digest(weight: np.ndarray) -> bytes:
    return hashlib.sha256(repr(weight.shape).encode() + weight.tobytes()).digest()


def _channels_last(weight: np.ndarray) -> np.ndarray:
    """(O, I, kH, kW) as XNNPACK has it, (O, kH, kW, I); a matrix stays."""
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight)
