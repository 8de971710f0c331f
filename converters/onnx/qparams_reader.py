"""The int8 grids of an .onnx file: its QuantizeLinear and DequantizeLinear operators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.onnx.model import read_model
from edgevit.errors import ContractError
from edgevit.quantization.model_qparams import StoredGrid, StoredGrids, StoredLayer, count_kinds, is_average

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_RECTIFIERS = frozenset(("Relu", "Clip"))
_MOVES = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose", "Pad", "Slice", "Concat", "Split", "Gather"),
        *("Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "MaxPool", "Shape", "DepthToSpace", "SpaceToDepth"),
    )
)


def read_grids(path: Path) -> StoredGrids:
    """The grids of the file. Raises ContractError if it is damaged."""
    try:
        return _Reader(read_model(path).graph).run()
    except (KeyError, IndexError, ValueError) as error:
        raise ContractError(f"{path} has an incomplete int8 grid: {error}", hint="convert again") from error


class _Reader:
    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def run(self) -> StoredGrids:
        layers, floats, averages, others = [], [], 0, []
        for node in self._graph.node:
            weight = self._weight(node) if node.op_type in _WEIGHTED else None
            if weight is not None:
                layers.append(self._layer(node, weight))
            elif node.op_type in _WEIGHTED and (constant := self._constants.get(node.input[1])) is not None:
                averages += is_average(constant)
                floats += [] if is_average(constant) else [node.output[0]]
            elif node.op_type not in _MOVES and not self._part_of_layer(node):
                others.append(node)
        stores = (node for node in self._graph.node if node.op_type == "QuantizeLinear")
        return StoredGrids(
            layers=tuple(layers),
            activations={node.input[0]: self._grid(node) for node in stores},
            float_layers=tuple(floats),
            averages=averages,
            floating=count_kinds(node.op_type for node in others if not self._on_grids(node)),
        )

    def _layer(self, node: NodeProto, weight: NodeProto) -> StoredLayer:
        values, scales = (self._constants[name] for name in weight.input[:2])
        source = self._makers.get(node.input[0])
        reads = self._grid(source) if source is not None and source.op_type == "DequantizeLinear" else None
        return StoredLayer(node.output[0], values, scales.astype(np.float32), reads, self._written(node))

    def _weight(self, node: NodeProto) -> NodeProto | None:
        """The operator that dequantizes a layer's weight, maybe before it is turned round for a product."""
        maker = self._makers.get(node.input[1])
        while maker is not None and maker.op_type == "Transpose":
            maker = self._makers.get(maker.input[0])
        stored = maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in self._constants
        return maker if stored else None

    def _written(self, node: NodeProto) -> StoredGrid | None:
        """The grid of a layer's result, behind its bias and a rectifier."""
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1:
            return None
        (reader,) = readers
        if reader.op_type == "QuantizeLinear":
            return self._grid(reader)
        return self._written(reader) if reader.op_type in _RECTIFIERS or self._adds_bias(reader) else None

    def _adds_bias(self, node: NodeProto) -> bool:
        makers = [self._makers.get(name) for name in node.input]
        product = any(maker is not None and maker.op_type == "MatMul" for maker in makers)
        return node.op_type == "Add" and product and any(name in self._constants for name in node.input)

    def _part_of_layer(self, node: NodeProto) -> bool:
        return node.op_type in _RECTIFIERS or self._adds_bias(node)

    def _on_grids(self, node: NodeProto) -> bool:
        """Whether all that an operation reads and writes lies on a grid, which kernels for integers need."""
        computed = [self._makers.get(name) for name in node.input if name not in self._constants]
        reads = all(maker is not None and maker.op_type == "DequantizeLinear" for maker in computed)
        readers = self._readers.get(node.output[0], [])
        return reads and bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)

    def _grid(self, node: NodeProto) -> StoredGrid:
        return StoredGrid(float(self._constants[node.input[1]]), int(self._constants[node.input[2]]))
