"""Writes operators into a graph: constants, layout changes and fused activations in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from converters.tflite.flatbuffer import Graph, Operator, Quantization, Tensor
from converters.tflite.layout import (
    CHANNELS_LAST,
    Order,
    Shape,
    Value,
    extended,
    identity,
    moves_data,
    plan_reshape,
    stored,
)
from edgevit.errors import ConversionError
from edgevit.quantization.weight_storage import HALF_FROM_ELEMENTS, LARGEST_HALF
from edgevit.spec import Precision

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import fx

_ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
_FUSING = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL"})

Operand: TypeAlias = "Value | torch.Tensor | float"


class Unsupported(Exception):
    """A finding that is collected, not a failure: an op, or a form of it, without an exact counterpart here."""


@dataclass(slots=True)
class Builder:
    """A graph in the making. `node` is the ATen node being lowered: it names what is written."""

    precision: Precision
    graph: Graph = field(default_factory=Graph)
    node: fx.Node | None = None
    scope: str = ""
    _constants: dict[tuple[str, Shape, bytes], int] = field(default_factory=dict)
    _relaid: dict[tuple[int, Shape, Order | None], int] = field(default_factory=dict)
    _producers: dict[int, tuple[Operator, fx.Node | None]] = field(default_factory=dict)

    @property
    def lowered(self) -> fx.Node:
        """The ATen node being lowered; only while one is."""
        assert self.node is not None
        return self.node

    def emit(self, name: str, inputs: list[int], shape: Shape, options: dict[str, Any] | None = None) -> int:
        """Append one operator; `shape` is what it makes, as stored. Returns its output's index."""
        output = self.graph.add_tensor(Tensor(f"{self.scope}/{name.lower()}_{len(self.graph.operators)}", shape))
        operator = Operator(name, inputs, output, options or {})
        self.graph.operators.append(operator)
        self._producers[output] = (operator, self.node)
        return output

    def constant(self, array: np.ndarray) -> int:
        """Index of a constant; equal ones are stored once. Large float ones as float16 if the precision asks."""
        import numpy as np

        if self.precision is Precision.FP16 and array.dtype == np.float32 and array.size >= HALF_FROM_ELEMENTS:
            return self._half_constant(array)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self.scope}/const_{len(self._constants)}"
            self._constants[key] = self.graph.add_tensor(Tensor(name, array.shape, key[0], array))
        return self._constants[key]

    def _half_constant(self, array: np.ndarray) -> int:
        import numpy as np

        largest = float(np.abs(array).max())
        if not largest <= LARGEST_HALF:
            raise Unsupported(f"a weight of {largest:.3g} does not fit float16")
        half = self.constant(array.astype(np.float16))
        key = (half, array.shape, None)
        if key not in self._relaid:
            self._relaid[key] = self.emit("DEQUANTIZE", [half], array.shape)  # delegates take the float16 itself
        return self._relaid[key]

    def integers(self, *values: int) -> int:
        """Index of a constant int32 vector: shapes, axes, offsets."""
        import numpy as np

        return self.constant(np.array(values, np.int32))

    def laid(self, tensor: torch.Tensor, order: Order) -> int:
        """Index of a constant tensor, stored under `order` (its rank or more: axes of size 1 come in front)."""
        import numpy as np

        array = tensor.detach().float().numpy()
        array = array.reshape((1,) * (len(order) - array.ndim) + array.shape).transpose(order)
        return self.constant(np.ascontiguousarray(array))

    def value(self, operand: Operand) -> Value:
        """A constant operand as a Value in its own order; a Value as it is."""
        import torch

        if isinstance(operand, Value):
            return operand
        tensor = torch.as_tensor(operand, dtype=torch.float32)
        order = identity(tensor.dim())
        return Value(self.laid(tensor, order), tuple(tensor.shape), order)

    def relaid(self, value: Value, order: Order) -> Value:
        """`value` stored under another order: free, a RESHAPE, or a TRANSPOSE where elements must move.

        A constant is stored a second time instead.
        """
        import numpy as np

        shape = stored(value.shape, order)
        if moves_data(value.shape, value.order, order):
            axes = tuple(value.order.index(axis) for axis in order)
            data = self.graph.tensors[value.tensor].data
            if data is not None:
                return Value(self.constant(np.ascontiguousarray(data.transpose(axes))), value.shape, order)
            key = (value.tensor, shape, axes)
            if key not in self._relaid:
                self._relaid[key] = self.emit("TRANSPOSE", [value.tensor, self.integers(*axes)], shape)
            return Value(self._relaid[key], value.shape, order)
        return Value(self.restored(value.tensor, value.stored_shape, shape), value.shape, order)

    def restored(self, tensor: int, shape: Shape, new_shape: Shape) -> int:
        """A RESHAPE of the file's tensor, with the elements in their sequence; none if the shape stays."""
        if shape == new_shape:
            return tensor
        key = (tensor, new_shape, None)
        if key not in self._relaid:
            producer = self._producers.get(tensor)
            source = (
                producer[0].inputs[0] if producer and producer[0].name == "RESHAPE" else tensor
            )  # RESHAPE of RESHAPE
            inputs, options = [source, self.integers(*new_shape)], {"newShape": list(new_shape)}
            self._relaid[key] = self.emit("RESHAPE", inputs, new_shape, options)
        return self._relaid[key]

    def reshaped(self, value: Value, shape: Shape) -> Value:
        """aten.view: elements in logical sequence; in the file they stay where they lie if they can."""
        needed, order = plan_reshape(value.shape, value.order, shape)
        value = self.relaid(value, needed)
        return Value(self.restored(value.tensor, value.stored_shape, stored(shape, order)), shape, order)

    def unary(self, name: str, value: Value, options: dict[str, Any] | None = None) -> Value:
        """An element by element operator: the order is whatever it was."""
        return Value(self.emit(name, [value.tensor], value.stored_shape, options), value.shape, value.order)

    def requantize(self, value: Value, qparams: Quantization) -> Value:
        """`value` as integers."""
        tensor = self.emit("QUANTIZE", [value.tensor], value.stored_shape)
        self.graph.tensors[tensor].dtype, self.graph.tensors[tensor].qparams = "int8", qparams
        return Value(tensor, value.shape, value.order)

    def producer(self, tensor: int) -> fx.Node | None:
        """The ATen node that an operator's output was emitted for."""
        return self._producers[tensor][1]

    def binary(self, name: str, left: Operand, right: Operand) -> Value:
        """An element by element operator of two operands that broadcast. Constants take the other's order for free."""
        import torch

        rank = max(_rank(left), _rank(right))
        order = self.common_order([left, right], rank)
        shape = tuple(torch.broadcast_shapes(_shape(left), _shape(right)))
        operands = [self._operand(operand, order) for operand in (left, right)]
        return Value(self.emit(name, operands, stored(shape, order)), shape, order)

    def common_order(self, operands: list[Operand], rank: int) -> Order:
        """The order of the largest computed operand; ties go to channels-last, then to the one that comes first."""
        values = [extended(operand, rank) for operand in operands if isinstance(operand, Value)]
        return max(values, key=lambda value: (_elements(value), value.order == CHANNELS_LAST)).order

    def _operand(self, operand: Operand, order: Order) -> int:
        import torch

        if isinstance(operand, Value):
            return self.relaid(extended(operand, len(order)), order).tensor
        tensor = torch.as_tensor(operand, dtype=torch.float32)
        # A rank 0 constant broadcasts as it is, whatever the rank of the other operand.
        return self.laid(tensor, order if tensor.dim() else ())

    def activated(self, name: str, value: Value) -> Value:
        """RELU and its kin: inside the operator that made `value` if nothing else reads its plain result."""
        operator, producer = self._producers.get(value.tensor, (None, None))
        alone = producer is not None and producer is self.lowered.args[0] and len(producer.users) == 1
        fuses = operator is not None and operator.name in _FUSING and "fusedActivationFunction" not in operator.options
        if operator is not None and fuses and alone:
            operator.options["fusedActivationFunction"] = _ACTIVATIONS[name]
            return value
        return self.unary(name, value)

    def never_negative(self, value: Value) -> bool:
        """Whether `value` comes straight from a RELU, its own operator or one fused into another."""
        operator, _ = self._producers.get(value.tensor, (None, None))
        fused = (_ACTIVATIONS["RELU"], _ACTIVATIONS["RELU6"])
        return operator is not None and (
            operator.name in ("RELU", "RELU6") or operator.options.get("fusedActivationFunction") in fused
        )

    def finished(self, model: str) -> Graph:
        """The graph without what no output needs. Raises ConversionError if an output would be no operator's."""
        for index in self.graph.outputs:
            if index not in self._producers:
                raise ConversionError(f"{model} has an output that is an input or a constant", fix="compute something")
        return self.graph.pruned()


def _elements(value: Value) -> int:
    return math.prod(value.shape)


def _shape(operand: Operand) -> tuple[int, ...]:
    return tuple(getattr(operand, "shape", ()))


def _rank(operand: Operand) -> int:
    return len(_shape(operand))
