"""The int8 grids of a .tflite file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converters.tflite.flatbuffer import Graph, Operator, Tensor, read_graph
from edgevit.quantization.model_qparams import (
    StoredGrid,
    StoredGrids,
    StoredLayer,
    canonical_weight,
    count_kinds,
    is_average,
)

_WEIGHTED = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"))
_MOVES = frozenset(
    (
        *("QUANTIZE", "DEQUANTIZE", "RESHAPE", "TRANSPOSE", "PAD", "PADV2", "SLICE", "STRIDED_SLICE"),
        *("CONCATENATION", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR"),
    )
)


def read_grids(path: Path) -> StoredGrids:
    """The grids of the file. Raises ContractError if it is damaged."""
    graph = read_graph(path)
    layers, floats, averages = [], [], 0
    widened = {operator.output: operator.inputs[0] for operator in graph.operators if operator.name == "DEQUANTIZE"}
    for operator in (operator for operator in graph.operators if operator.name in _WEIGHTED):
        index = operator.inputs[1]  # behind a TRANSPOSE_CONV's shape, too
        weight = graph.tensors[widened.get(index, index)]
        if weight.dtype == "int8" and weight.grid is not None:
            layers.append(_layer(graph, operator, weight))
        elif operator.name != "DEPTHWISE_CONV_2D" and weight.data is not None and is_average(weight.data):
            averages += 1
        else:
            floats.append(graph.tensors[operator.output].name)
    others = (operator for operator in graph.operators if operator.name not in _WEIGHTED | _MOVES)
    grids = {f"tensor {index} {t.name}": _grid(t) for index, t in enumerate(graph.tensors) if t.data is None}
    return StoredGrids(
        layers=tuple(layers),
        activations={name: grid for name, grid in grids.items() if grid is not None},
        float_layers=tuple(floats),
        averages=averages,
        floating=count_kinds(other.name for other in others if graph.tensors[other.output].dtype != "int8"),
    )


def _layer(graph: Graph, operator: Operator, weight: Tensor) -> StoredLayer:
    result = graph.tensors[operator.output]
    source = graph.tensors[operator.inputs[2 if operator.name == "TRANSPOSE_CONV" else 0]]
    return StoredLayer(
        result.name,
        canonical_weight(weight.data, weight.grid.axis),
        np.array(weight.grid.scales, np.float32),
        _grid(source),
        _grid(result),
    )


def _grid(tensor: Tensor) -> StoredGrid | None:
    if tensor.dtype != "int8" or tensor.grid is None:
        return None
    return StoredGrid(tensor.grid.scales[0], tensor.grid.zero_point)
