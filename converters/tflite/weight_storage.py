"""Weights stored in int8 for operators that compute in float: a DEQUANTIZE of a constant, which delegates do once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from converters.tflite.flatbuffer import Graph, Operator, Quantization, Tensor
from converters.tflite.int8_operators import WEIGHTED, requantize

if TYPE_CHECKING:
    import numpy as np


def store_int8(graph: Graph, weight_scales: Mapping[int, np.ndarray]) -> None:
    """Store quantized weights as integers, in place.

    weight_scales: float32 (O,) by the output of each operator whose constant weight is quantized by them.
    """
    producers = {operator.output: operator for operator in graph.operators}
    operators, known = [], {}
    for operator in graph.operators:
        if operator.name in WEIGHTED and operator.output in weight_scales:
            index = operator.inputs[1]
            if index not in known:
                half = producers.get(index)  # a float16 constant, cast to float32
                data = graph.tensors[index if half is None else half.inputs[0]].values
                dequantize = _dequantized(graph, index, data, weight_scales[operator.output], WEIGHTED[operator.name])
                operators.append(dequantize)
                known[index] = dequantize.output
            operator.inputs[1:] = [known[index], *(_single(graph, producers, bias) for bias in operator.inputs[2:])]
        operators.append(operator)
    graph.operators[:] = operators


def _single(graph: Graph, producers: Mapping[int, Operator], bias: int) -> int:
    """A bias as a plain float32 constant: the delegate refuses a float16 one beside a weight of another type."""
    if bias not in producers:
        return bias
    half = graph.tensors[producers[bias].inputs[0]]
    return graph.add_tensor(Tensor(f"{half.name}_single", half.shape, "float32", half.values.astype("float32")))


def _dequantized(graph: Graph, weight: int, data: np.ndarray, scales: np.ndarray, axis: int) -> Operator:
    name, shape = graph.tensors[weight].name, data.shape
    qparams = Quantization(tuple(map(float, scales)), 0, axis)
    stored = graph.add_tensor(Tensor(f"{name}_int8", shape, "int8", requantize(data, scales, axis), qparams))
    return Operator("DEQUANTIZE", [stored], graph.add_tensor(Tensor(f"{name}_widened", shape)), {})
