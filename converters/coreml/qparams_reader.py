"""The quantization parameters of a Core ML package: of its quantize and dequantize operations, and its int8 weights.

A program with emulated integer arithmetic (`edgevit.quantization.integer_emulation`) dequantizes by a scale of one in
front of a kernel. Its activation scales stand at the quantize operations; its weight scales follow from its factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import ContractError
from edgevit.mil.package import Package, body, open_package, walk
from edgevit.quantization.model_qparams import LayerQParams, ModelQParams, count_kinds, is_average
from edgevit.quantization.qparams import QParams, QuantizedWeight

if TYPE_CHECKING:
    from google.protobuf.message import Message

_WEIGHTED = frozenset(("conv", "linear", "conv_transpose"))
_FUSED_ACTIVATIONS = frozenset(("relu", "relu6", "clip"))
_DATA_MOVEMENT = frozenset(
    (
        *("cast", "identity", "reshape", "transpose", "expand_dims", "squeeze", "slice_by_index", "slice_by_size"),
        *("concat", "split", "stack", "pad", "tile", "max_pool", "pixel_shuffle", "pixel_unshuffle"),
        *("space_to_depth", "depth_to_space", "upsample_nearest_neighbor", "quantize", "dequantize", "classify"),
    )
)
# Operation that unpacks an int8 weight -> its parameters for values, scale and zero point (iOS16 to iOS17, iOS18 on).
_WEIGHTS = {
    "constexpr_affine_dequantize": ("quantized_data", "scale", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "scale", "offset"),
}


def read_qparams(path: Path) -> ModelQParams:
    """The quantization parameters of the package. Raises ContractError if it is damaged."""
    package = open_package(path)
    readers = [_FunctionReader(package, body(function)) for function in package.functions.values()]
    floats = [layer for reader in readers for layer in reader.float_layers()]
    return ModelQParams(
        layers=tuple(layer for reader in readers for layer in reader.layers()),
        activations={name: qparams for reader in readers for name, qparams in reader.activations()},
        float_layers=tuple(name for name, average in floats if not average),
        averages=sum(average for _, average in floats),
        kept_in_float=count_kinds(kind for reader in readers for kind in reader.kept_in_float()),
    )


class _FunctionReader:
    """One function of the program; values are known by their names."""

    def __init__(self, package: Package, block: Message) -> None:
        self._package = package
        self._operations = list(walk(block))
        self._producers = {output.name: operation for operation in self._operations for output in operation.outputs}
        self._readers: dict[str, list[Message]] = {}
        for operation in self._operations:
            for name in _operands(operation):
                self._readers.setdefault(name, []).append(operation)
        self._emulated = self._emulated_integers()

    def activations(self) -> Iterator[tuple[str, QParams]]:
        """The qparams of each operation that quantizes or dequantizes."""
        for operation in self._operations:
            if operation.type in ("quantize", "dequantize"):
                yield operation.outputs[0].name, self._qparams(operation)

    def layers(self) -> Iterator[LayerQParams]:
        """Those with an int8 weight, in program order."""
        for operation in self._weighted():
            stored = self._weight(operation)
            if stored is not None:
                name = operation.outputs[0].name
                reads, writes = self._read_qparams(operation, "x"), self._written_qparams(operation)
                yield LayerQParams(name, QuantizedWeight(*stored), reads, writes)

    def float_layers(self) -> Iterator[tuple[str, bool]]:
        """(name, whether it averages) of those with another weight."""
        for operation in self._weighted():
            if self._weight(operation) is None:
                weight = self._constant(operation, "weight")
                yield operation.outputs[0].name, weight is not None and is_average(weight)

    def kept_in_float(self) -> Iterator[str]:
        """The kinds of the other operations that are not between dequantize and quantize."""
        for operation in self._operations:
            apart = operation.type.startswith("const") or operation.type in _DATA_MOVEMENT | _WEIGHTED
            apart = apart or operation.outputs[0].name in self._emulated
            if not apart and not self._in_int8(operation):
                yield operation.type

    def _weighted(self) -> Iterator[Message]:
        return (operation for operation in self._operations if operation.type in _WEIGHTED)

    def _emulated_integers(self) -> set[str]:
        """Values that hold emulated integers, and what is computed from such alone."""
        reads = [operation for operation in self._operations if operation.type == "dequantize"]
        steps = [operation for operation in reads if float(self._constant(operation, "scale")) == 1]
        if all(self._stored_scale(operation) == 1 for operation in steps):
            return set()
        found = {operation.outputs[0].name for operation in steps}
        for operation in self._operations:
            computed = [name for name in _operands(operation) if not self._is_constant(name)]
            if operation.type != "quantize" and computed and found.issuperset(computed):
                found.update(output.name for output in operation.outputs)
        return found

    def _stored_scale(self, operation: Message) -> float:
        """The scale of the integers that a dequantize reads; its own where no quantize in sight produced them."""
        producer = self._producer(operation, "input")
        for _ in self._operations:  # a damaged file may lead in circles
            if producer is None or producer.type not in _DATA_MOVEMENT or producer.type == "quantize":
                break
            producer = self._producer(producer, "x")
        known = producer is not None and producer.type == "quantize"
        return float(self._constant(producer if known else operation, "scale"))

    def _is_constant(self, name: str) -> bool:
        return name in self._producers and self._producers[name].type.startswith("const")

    def _weight(self, operation: Message) -> tuple[np.ndarray, np.ndarray] | None:
        """Values int8 (O, ...) and scales float32 (O,) of a layer; None for a float weight."""
        producer = self._producer(operation, "weight")
        if producer is None or producer.type not in _WEIGHTS:
            return None
        values, scale, zero = (self._constant(producer, key) for key in _WEIGHTS[producer.type])
        if values.dtype != np.int8 or (zero is not None and np.any(zero)):
            raise ContractError(
                f"{self._package.path}: the weight of {operation.outputs[0].name} is not symmetric int8",
                fix="convert again",
            )
        scales = np.asarray(scale, np.float32).reshape(-1)
        if operation.outputs[0].name in self._emulated:
            scales = scales * self._implied_scales(operation)
        return values, np.ascontiguousarray(np.broadcast_to(scales, len(values)))

    def _implied_scales(self, operation: Message) -> np.ndarray:
        """The scales (O,) of a weight in emulated integers: the float16 numbers that the factors behind it follow from.

        Where there are none, a float32 near by or NaN: not a scale that edgevit writes.
        """
        rescaling = self._rescaling(operation)
        data, result = self._read_qparams(operation, "x"), self._written_qparams(operation)
        if rescaling is None or data is None or result is None:
            return np.array([np.nan], np.float32)
        factor = np.asarray(rescaling[0], np.float32).reshape(-1)
        ends = np.float32(data.scale), np.float32(result.scale)
        implied = factor * ends[1] / ends[0]
        halves = implied.astype(np.float16).astype(np.float32)
        return np.where(halves * ends[0] / ends[1] == factor, halves, implied)

    def _rescaling(self, operation: Message) -> tuple[Any, float, Message] | None:
        """What follows a layer in emulated integers: its factors, its result's scale, and the product with that."""
        steps, constants = operation, []
        for kind in ("mul", "round", "mul"):
            readers = self._readers.get(steps.outputs[0].name, [])
            if len(readers) != 1 or readers[0].type != kind:
                return None
            steps = readers[0]
            constants += [value for key in "xy" if (value := self._constant(steps, key)) is not None]
        return (constants[0], float(constants[1]), steps) if len(constants) == 2 else None

    def _read_qparams(self, operation: Message, key: str) -> QParams | None:
        producer = self._producer(operation, key)
        return self._qparams(producer) if producer is not None and producer.type == "dequantize" else None

    def _written_qparams(self, operation: Message) -> QParams | None:
        """The qparams to which all users quantize the result, behind a fused activation where there is one.

        With emulated integers a layer's result is first rescaled and rounded, and multiplied by that scale.
        """
        if operation.type in _WEIGHTED and operation.outputs[0].name in self._emulated:
            rescaling = self._rescaling(operation)
            if rescaling is None:
                return None
            qparams = self._written_qparams(rescaling[2])
            return qparams if qparams is not None and qparams.scale == rescaling[1] else None
        readers = self._readers.get(operation.outputs[0].name, [])
        if len(readers) == 1 and readers[0].type in _FUSED_ACTIVATIONS:
            return self._written_qparams(readers[0])
        found = {self._qparams(reader) if reader.type == "quantize" else None for reader in readers}
        return found.pop() if len(found) == 1 else None

    def _in_int8(self, operation: Message) -> bool:
        producers = [self._producers.get(name) for name in _operands(operation)]
        producers = [producer for producer in producers if producer is None or not producer.type.startswith("const")]
        if operation.type in _FUSED_ACTIVATIONS and producers[0] is not None and producers[0].type != "dequantize":
            return self._written_qparams(producers[0]) is not None  # a kernel applies it
        reads = all(producer is not None and producer.type == "dequantize" for producer in producers)
        return reads and self._written_qparams(operation) is not None

    def _qparams(self, operation: Message) -> QParams:
        """Of a quantize or dequantize; unsigned integers, used after a fused activation, are shifted to signed."""
        integers = operation if operation.type == "quantize" else self._producer(operation, "input")
        if integers is None:
            raise ContractError(f"{operation.outputs[0].name} reads no integers of the program", fix="convert again")
        kind, _ = self._package.tensor_type(integers.outputs[0].type)
        zero = self._constant(operation, "zero_point")
        emulated = operation.type == "dequantize" and operation.outputs[0].name in self._emulated
        scale = self._stored_scale(operation) if emulated else float(self._constant(operation, "scale"))
        return QParams(scale, int(0 if zero is None else zero) - (128 if kind.name == "uint8" else 0))

    def _producer(self, operation: Message, key: str) -> Message | None:
        arguments = operation.inputs[key].arguments if key in operation.inputs else ()
        return self._producers.get(arguments[0].name) if arguments else None

    def _constant(self, operation: Message, key: str) -> Any:
        """The constant behind a parameter: an attribute, written in place, or by name; None if there is none."""
        if key in operation.attributes:
            return self._package.constant(operation.attributes[key])
        if key not in operation.inputs:
            return None
        (argument,) = operation.inputs[key].arguments
        if argument.WhichOneof("binding") == "value":
            return self._package.constant(argument.value)
        producer = self._producers.get(argument.name)
        return (
            self._package.constant(producer.attributes["val"])
            if producer is not None and producer.type == "const"
            else None
        )


def _operands(operation: Message) -> Iterator[str]:
    """Names of the values that an operation reads."""
    for argument in operation.inputs.values():
        yield from (binding.name for binding in argument.arguments if binding.WhichOneof("binding") == "name")
