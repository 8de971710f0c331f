"""The quantization parameters of a .tflite file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converters.tflite.flatbuffer import Graph, Operator, Quantization, Tensor, read_graph
from edgevit.quantization.model_qparams import (
    LayerQParams,
    ModelQParams,
    canonical_weight,
    count_kinds,
    is_average,
)
from edgevit.quantization.qparams import QParams, QuantizedWeight

_WEIGHTED = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"))
_DATA_MOVEMENT = frozenset(
    (
        *("QUANTIZE", "DEQUANTIZE", "RESHAPE", "TRANSPOSE", "PAD", "PADV2", "SLICE", "STRIDED_SLICE"),
        *("CONCATENATION", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR"),
    )
)


def read_qparams(path: Path) -> ModelQParams:
    """The quantization parameters of the file. Raises ContractError if it is damaged."""
    graph = read_graph(path)
    layers, floats, averages = [], [], 0
    dequantized = {operator.output: operator.inputs[0] for operator in graph.operators if operator.name == "DEQUANTIZE"}
    for operator in (operator for operator in graph.operators if operator.name in _WEIGHTED):
        index = operator.inputs[1]  # behind a TRANSPOSE_CONV's shape, too
        weight = graph.tensors[dequantized.get(index, index)]
        if weight.dtype == "int8" and weight.qparams is not None:
            layers.append(_layer(graph, operator, weight, weight.qparams))
        elif operator.name != "DEPTHWISE_CONV_2D" and weight.data is not None and is_average(weight.data):
            averages += 1
        else:
            floats.append(graph.tensors[operator.output].name)
    others = (operator for operator in graph.operators if operator.name not in _WEIGHTED | _DATA_MOVEMENT)
    known = {f"tensor {index} {t.name}": _qparams(t) for index, t in enumerate(graph.tensors) if t.data is None}
    return ModelQParams(
        layers=tuple(layers),
        activations={name: qparams for name, qparams in known.items() if qparams is not None},
        float_layers=tuple(floats),
        averages=averages,
        kept_in_float=count_kinds(other.name for other in others if graph.tensors[other.output].dtype != "int8"),
    )


def _layer(graph: Graph, operator: Operator, weight: Tensor, qparams: Quantization) -> LayerQParams:
    result = graph.tensors[operator.output]
    source = graph.tensors[operator.inputs[2 if operator.name == "TRANSPOSE_CONV" else 0]]
    values, scales = canonical_weight(weight.values, qparams.axis), np.array(qparams.scales, np.float32)
    return LayerQParams(result.name, QuantizedWeight(values, scales), _qparams(source), _qparams(result))


def _qparams(tensor: Tensor) -> QParams | None:
    if tensor.dtype != "int8" or tensor.qparams is None:
        return None
    return QParams(tensor.qparams.scales[0], tensor.qparams.zero_point)
