"""An .mlpackage in the reference interpreter that also records intermediate activations by node name.

coremltools names an operation's result after the node that it came from, with a suffix where it computes in fp16. A
quantized tensor has a name of its own: it is found behind the result that it quantizes. A program with emulated integer
arithmetic was converted from other nodes, with other names.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.coreml.sessions import InterpreterSession
from edgevit.errors import UsageError
from edgevit.mil.package import Package, body, walk
from edgevit.quantization.integer_emulation import named_emulated_integers

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edgevit.contract.manifest import Manifest
    from edgevit.export.program import Program

_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
_SUFFIXES = ("", "_cast_fp16", "_to_fp16")


class TracedInterpreterSession(InterpreterSession):
    """Every value of the program that a name leads to; UsageError for packages that take images."""

    def __init__(self, path: Path, manifest: Manifest, program: Program, nodes: Sequence[str]) -> None:
        if manifest.inputs[0].color:
            raise UsageError(
                f"{manifest.name} normalises images itself: its operations are not those of its program",
                fix="debug the same model converted without -O image_input=true",
            )
        super().__init__(path, manifest)
        self._check = self._observe
        self._observe = self._keep
        self._names = _value_names(self._interpreter.package, program, nodes)
        self._wanted = frozenset(self._names.values())
        self._kept: dict[str, np.ndarray] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One evaluation; the outputs, and the nodes' values: int8 where quantized, else float32."""
        self._kept = {}
        outputs = super().run(inputs)
        return outputs | {node: self._kept[value] for node, value in self._names.items()}

    def _keep(self, name: str, operation: str, value: Any) -> None:
        self._check(name, operation, value)
        if name in self._wanted:
            self._kept[name] = _integers(value.numpy()) if operation == "quantize" else value.float().numpy().copy()


def _integers(stored: np.ndarray) -> np.ndarray:
    """A quantized tensor as signed integers: after a fused activation they are unsigned, with a shifted zero point."""
    return (stored.astype(np.int16) - (128 if stored.dtype == np.uint8 else 0)).astype(np.int8)


def _value_names(package: Package, program: Program, nodes: Sequence[str]) -> dict[str, str]:
    """The value in the package of each node that has one there, in the shape that the node's result has."""
    (function,) = package.functions.values()
    operations = list(walk(body(function)))
    values = {output.name: output for operation in operations for output in operation.outputs}
    quantized = {
        argument.name: operation.outputs[0].name
        for operation in operations
        if operation.type == "quantize"
        for argument in operation.inputs["input"].arguments
    }
    known = {node.name: node for node in program.exported.graph.nodes}
    renamed = dict(zip(program.exported.graph_signature.user_outputs, program.spec.outputs, strict=True))
    renamed |= dict(zip(program.exported.graph_signature.user_inputs, program.spec.inputs, strict=True))
    reads = (operation.outputs[0].type for operation in operations if operation.type == "dequantize")
    emulated = any(package.tensor_type(read)[0].name == "fp32" for read in reads)
    called = named_emulated_integers(program.exported)[1] if emulated else {}
    found = {}
    for name in nodes:
        is_quantize = str(known[name].target) == _QUANTIZE
        part = known[name].target is operator.getitem  # of a norm, which is one value there
        source = known[name].args[0].name if is_quantize or part else name
        stem = renamed[source].name if source in renamed else called.get(source, source)
        candidates = [f"{stem}{suffix}" for suffix in _SUFFIXES]
        if is_quantize:
            candidates = [quantized.get(candidate, "") for candidate in candidates]
        value = next((values[candidate] for candidate in candidates if candidate in values), None)
        if value is not None and _shape(value) == tuple(known[name].meta["val"].shape):
            found[name] = value.name
    return found


def _shape(value: Message) -> tuple[int, ...]:
    return tuple(dimension.constant.size for dimension in value.type.tensorType.dimensions)
