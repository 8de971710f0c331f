"""Operators that compute in int8 where the graph has DEQUANTIZE in front and QUANTIZE behind.

The graph comes with float operators between those pairs. An operator whose kernels know int8 takes the integers
themselves and gives integers; what is left of the pairs surrounds the operators kept in float. Nothing is measured or
derived here: every scale is the one that a pair or a weight carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converters.tflite.flatbuffer import Graph, Operator, Quantization, Tensor
from converters.tflite.registry import lowers

if TYPE_CHECKING:
    import numpy as np

    from converters.tflite.builder import Builder
    from converters.tflite.layout import Value

# Axis of the output channels in the weight, as stored.
WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_COMPUTING = frozenset(
    ("ADD", "SUB", "MUL", "MEAN", "GELU", "LOGISTIC", "TANH", "HARD_SWISH", "RELU", "RELU6", "RELU_N1_TO_1")
)
# Their outputs keep the quantization parameters of their inputs.
_KEEPING = frozenset(
    (
        *("RESHAPE", "TRANSPOSE", "PAD", "SLICE", "MAX_POOL_2D"),
        *("AVERAGE_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    )
)


@lowers("quantize_per_tensor.default", namespace="quantized_decomposed")
def _quantize(b: Builder, x: Value, scale: float, zero_point: int, low: int, high: int, dtype: Any) -> Value:
    return b.requantize(x, Quantization((scale,), zero_point))


@lowers("dequantize_per_tensor.default", namespace="quantized_decomposed")
def _dequantize(b: Builder, x: Value, scale: float, zero_point: int, low: int, high: int, dtype: Any) -> Value:
    return b.unary("DEQUANTIZE", x)


def use_integers(graph: Graph, weight_scales: Mapping[int, np.ndarray]) -> dict[int, int]:
    """Turn float operators between pairs into integer ones, in place.

    weight_scales: float32 (O,) by the output of each operator whose constant weight is quantized by them. Returns, for
    each tensor that was a copy of another, the one that is used in its place.
    """
    return _Integers(graph, weight_scales).run()


def requantize(weight: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    """The int8 numbers of a weight quantized with one scale per index of `axis`, up to float16 rounding."""
    import numpy as np

    column = scales.reshape([-1 if one == axis else 1 for one in range(weight.ndim)])
    return np.rint(weight.astype(np.float32) / column).astype(np.int8)


class _Integers:
    """One walk in execution order; `_integers` maps each float tensor to the int8 tensor with the same content."""

    def __init__(self, graph: Graph, weight_scales: Mapping[int, np.ndarray]) -> None:
        self._graph = graph
        self._weight_scales = weight_scales
        self._integers: dict[int, int] = {}
        self._same: dict[int, int] = {}  # an int8 tensor -> the one that is used in its place
        self._readers: dict[int, list[Operator]] = {}
        for operator in graph.operators:
            for index in operator.inputs:
                self._readers.setdefault(index, []).append(operator)

    def run(self) -> dict[int, int]:
        self._graph.operators[:] = [new for old in self._graph.operators for new in self._rewritten(old)]
        return self._same

    def _rewritten(self, operator: Operator) -> list[Operator]:
        operator.inputs = [self._same.get(index, index) for index in operator.inputs]
        source = operator.inputs[0]
        if operator.name == "DEQUANTIZE" and self._tensor(source).qparams is not None:
            self._integers[operator.output] = source
        elif operator.name == "QUANTIZE":
            known = self._integers.get(source)
            if known is not None and self._tensor(known).qparams == self._tensor(operator.output).qparams:
                self._same[operator.output] = known
                return []
        elif operator.name in _KEEPING and source in self._integers:
            return self._kept(operator)
        elif operator.name == "CONCATENATION" or operator.name in _COMPUTING or operator.name in WEIGHTED:
            return [self._computed(operator)]
        return [operator]

    def _kept(self, operator: Operator) -> list[Operator]:
        """The operator on integers, and the float result for those who want it."""
        source = self._integers[operator.inputs[0]]
        result = self._tensor(operator.output)
        moved = self._graph.add_tensor(
            Tensor(f"{result.name}_int8", result.shape, "int8", qparams=self._tensor(source).qparams)
        )
        self._integers[operator.output] = moved
        return [
            Operator(operator.name, [source, *operator.inputs[1:]], moved, operator.options),
            Operator("DEQUANTIZE", [moved], operator.output, {}),
        ]

    def _computed(self, operator: Operator) -> Operator:
        """The operator on integers if its inputs are quantized and its result is wanted so; else as it was."""
        weighted = operator.name in WEIGHTED
        data = operator.inputs[:1] if weighted or operator.name == "MEAN" else operator.inputs
        result = self._wanted(operator.output)
        if result is None or not all(index in self._integers for index in data):
            return operator
        inputs = [self._integers[index] for index in data]
        if operator.name == "CONCATENATION" and any(
            self._tensor(index).qparams != self._tensor(result).qparams for index in inputs
        ):
            return operator
        if weighted:
            scales = self._weight_scales.get(operator.output)
            if scales is None:
                return operator
            qparams = self._tensor(inputs[0]).qparams
            assert qparams is not None  # it is among the integers
            inputs += self._weights(operator, scales, qparams)
        else:
            inputs += operator.inputs[len(data) :]
        self._integers[operator.output] = result
        return Operator(operator.name, inputs, result, operator.options)

    def _wanted(self, output: int) -> int | None:
        """The int8 tensor that all users of a float result make of it; None if one of them wants another thing."""
        users = self._readers.get(output, [])
        qparams = {self._tensor(user.output).qparams for user in users if user.name == "QUANTIZE"}
        quantized = all(user.name == "QUANTIZE" for user in users)
        return users[0].output if quantized and len(qparams) == 1 and output not in self._graph.outputs else None

    def _weights(self, operator: Operator, scales: np.ndarray, data: Quantization) -> list[int]:
        """The weight as int8 and the bias as int32 at the scale of the products."""
        import numpy as np

        weight, bias = (self._tensor(index) for index in operator.inputs[1:])
        axis = WEIGHTED[operator.name]
        integers = requantize(weight.values, scales, axis)
        products = scales.astype(np.float64) * data.scales[0]
        limits = np.iinfo(np.int32)
        summed = np.clip(np.rint(bias.values / products), limits.min, limits.max).astype(np.int32)
        quantized_weight = Quantization(tuple(map(float, scales)), 0, axis)
        bias_qparams = Quantization(tuple(map(float, products.astype(np.float32))), 0, 0)
        return [
            self._graph.add_tensor(Tensor(f"{weight.name}_int8", weight.shape, "int8", integers, quantized_weight)),
            self._graph.add_tensor(Tensor(f"{bias.name}_int32", bias.shape, "int32", summed, bias_qparams)),
        ]

    def _tensor(self, index: int) -> Tensor:
        return self._graph.tensors[index]
