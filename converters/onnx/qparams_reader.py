"""The quantization parameters of an .onnx file: its QuantizeLinear and DequantizeLinear operators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.onnx.model import read_model
from edgevit.errors import ContractError
from edgevit.quantization.model_qparams import LayerQParams, ModelQParams, count_kinds, is_average
from edgevit.quantization.qparams import QParams, QuantizedWeight

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_FUSED_ACTIVATIONS = frozenset(("Relu", "Clip"))
_DATA_MOVEMENT = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose", "Pad", "Slice", "Concat", "Split", "Gather"),
        *("Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "MaxPool", "Shape", "DepthToSpace", "SpaceToDepth"),
    )
)


def read_qparams(path: Path) -> ModelQParams:
    """The quantization parameters of the file. Raises ContractError if it is damaged."""
    try:
        return _Reader(read_model(path).graph).run()
    except (KeyError, IndexError, ValueError) as error:
        raise ContractError(f"{path} has incomplete quantization parameters: {error}", fix="convert again") from error


class _Reader:
    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def run(self) -> ModelQParams:
        layers, floats, averages, others = [], [], 0, []
        for node in self._graph.node:
            weight = self._weight(node) if node.op_type in _WEIGHTED else None
            if weight is not None:
                layers.append(self._layer(node, weight))
            elif node.op_type in _WEIGHTED and (constant := self._constants.get(node.input[1])) is not None:
                averages += is_average(constant)
                floats += [] if is_average(constant) else [node.output[0]]
            elif node.op_type not in _DATA_MOVEMENT and not self._part_of_layer(node):
                others.append(node)
        stores = (node for node in self._graph.node if node.op_type == "QuantizeLinear")
        return ModelQParams(
            layers=tuple(layers),
            activations={node.input[0]: self._qparams(node) for node in stores},
            float_layers=tuple(floats),
            averages=averages,
            kept_in_float=count_kinds(node.op_type for node in others if not self._quantized(node)),
        )

    def _layer(self, node: NodeProto, weight: NodeProto) -> LayerQParams:
        values, scales = (self._constants[name] for name in weight.input[:2])
        source = self._producers.get(node.input[0])
        reads = self._qparams(source) if source is not None and source.op_type == "DequantizeLinear" else None
        stored = QuantizedWeight(values, scales.astype(np.float32))
        return LayerQParams(node.output[0], stored, reads, self._written(node))

    def _weight(self, node: NodeProto) -> NodeProto | None:
        """The operator that dequantizes a layer's weight, maybe before it is transposed for a product."""
        producer = self._producers.get(node.input[1])
        while producer is not None and producer.op_type == "Transpose":
            producer = self._producers.get(producer.input[0])
        stored = (
            producer is not None and producer.op_type == "DequantizeLinear" and producer.input[0] in self._constants
        )
        return producer if stored else None

    def _written(self, node: NodeProto) -> QParams | None:
        """The qparams of a layer's result, behind its bias and a fused activation."""
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1:
            return None
        (reader,) = readers
        if reader.op_type == "QuantizeLinear":
            return self._qparams(reader)
        return self._written(reader) if reader.op_type in _FUSED_ACTIVATIONS or self._adds_bias(reader) else None

    def _adds_bias(self, node: NodeProto) -> bool:
        producers = [self._producers.get(name) for name in node.input]
        product = any(producer is not None and producer.op_type == "MatMul" for producer in producers)
        return node.op_type == "Add" and product and any(name in self._constants for name in node.input)

    def _part_of_layer(self, node: NodeProto) -> bool:
        return node.op_type in _FUSED_ACTIVATIONS or self._adds_bias(node)

    def _quantized(self, node: NodeProto) -> bool:
        """Whether all inputs and outputs of an operation are quantized, which integer kernels need."""
        computed = [self._producers.get(name) for name in node.input if name not in self._constants]
        reads = all(producer is not None and producer.op_type == "DequantizeLinear" for producer in computed)
        readers = self._readers.get(node.output[0], [])
        return reads and bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)

    def _qparams(self, node: NodeProto) -> QParams:
        return QParams(float(self._constants[node.input[1]]), int(self._constants[node.input[2]]))
