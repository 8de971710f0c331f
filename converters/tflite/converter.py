"""TFLite: a Program becomes a .tflite file with channels-last feature maps, run by LiteRT with XNNPACK.

The ATen graph is lowered op by op, each tensor with its axis order known (`layout.py`). No converter that
guesses layouts from shapes takes part, so nothing depends on which sizes happen to be equal.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.compat.litert import Operator, operators
from edgevit.errors import ContractError, ConversionError, DeviceError, UsageError
from edgevit.export.program import Program
from edgevit.infra.optional_imports import require, version
from edgevit.log import captured_native_output
from edgevit.quantization.weight_storage import (
    HALF_FROM_ELEMENTS,
    INT8,
    WeightStorageOptions,
    recorded_kind,
    require_float,
)
from edgevit.spec import Layout, Precision, TensorSpec, Tier
from edgevit.targets.base import Converted, input_arrays

if TYPE_CHECKING:
    import numpy as np

    from converters.tflite.flatbuffer import FileFacts
    from edgevit.contract.manifest import Lowering, Manifest
    from edgevit.quantization.model_qparams import ModelQParams

MODEL_FILE = "model.tflite"
_INTERPRETER = "ai_edge_litert.interpreter"
_DELEGATE = "DELEGATE"  # what LiteRT calls the node that stands for a delegate's piece of the graph


@dataclass(frozen=True, slots=True)
class TFLiteOptions(WeightStorageOptions):
    """How weights are stored, and nothing else."""


class TFLiteSession:
    """A .tflite file in LiteRT, on the CPU with XNNPACK."""

    accelerator = "cpu"

    def __init__(self, path: Path, manifest: Manifest, threads: int) -> None:
        self.runtime = f"litert {_litert_version()}"
        self.threads = threads
        self._manifest = manifest
        self._interpreter = _interpreter(path, threads)
        self._runner = self._interpreter.get_signature_runner()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; float32 arrays by input name, copies by output name."""
        names = (spec.name for spec in self._manifest.inputs)
        return self._runner(**dict(zip(names, input_arrays(inputs, self._manifest), strict=True)))

    def close(self) -> None:
        """Free the interpreter and its delegate."""
        del self._runner, self._interpreter


class TracedTFLiteSession(TFLiteSession):
    """The same file that also outputs recorded intermediate activations, by the names of the program's nodes."""

    def __init__(self, path: Path, manifest: Manifest, program: Program, nodes: Sequence[str]) -> None:
        from converters.tflite.layer_values import traced_file

        data, self._names = traced_file(path, program, nodes)
        with tempfile.TemporaryDirectory(prefix="edgevit-tflite-") as folder:
            traced = Path(folder, path.name)
            traced.write_bytes(data)
            super().__init__(traced, manifest, threads=1)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; the outputs of the file, and the nodes' values with the axes of the program."""
        from converters.tflite.layer_values import in_graph_form

        outputs = super().run(inputs)
        return outputs | in_graph_form(outputs, self._names)


class TFLiteConverter:
    """Writes model.tflite with builtin ops only and runs it with LiteRT."""

    name = "tflite"
    suffix = ".tflite"
    kernels = "xnnpack"
    tier = Tier.EDGE
    keeps_float32 = False
    ml_program = False
    dynamic_batch = False
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.INT8})
    extra = "tflite"
    packages = ("ai-edge-litert", "flatbuffers")
    runtime_modules = (_INTERPRETER,)
    Options = TFLiteOptions

    def convert(self, program: Program, options: TFLiteOptions, out_dir: Path) -> Converted:
        """Lower every op and write model.tflite. Raises ConversionError naming every op without a counterpart.

        FP16 stores weights as float16; LiteRT casts them to float32 when it loads, so arithmetic stays float32 on
        CPUs. INT8 computes on integers where the program is quantized, and in float32 elsewhere; inputs and outputs
        stay float32.
        """
        require_float(program.precision, options.weight_compression)
        require(_INTERPRETER, "tflite")
        from converters.tflite.flatbuffer import serialize
        from converters.tflite.lowering import lower

        graph = lower(program).graph
        path = out_dir / MODEL_FILE
        path.write_bytes(serialize(graph, program.spec.name))
        inputs = _specs(program.spec.inputs, [graph.tensors[index].shape for index in graph.inputs])
        outputs = _specs(program.spec.outputs, [graph.tensors[index].shape for index in graph.outputs])
        compression = recorded_kind(options.weight_compression)
        return Converted(MODEL_FILE, inputs, outputs, _lowering(path), compression=compression)

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Identifier, ends, ops and weight precision of the file against the manifest."""
        from converters.tflite.flatbuffer import IDENTIFIER, read_facts

        path = folder / manifest.entry
        facts = read_facts(path)
        for contradiction in _contradictions(facts, manifest):
            raise ContractError(f"{path} {contradiction}", fix="convert again")
        return {
            "identifier": IDENTIFIER.decode(),
            "inputs": _shown(facts.inputs),
            "outputs": _shown(facts.outputs),
            "ops": str(facts.ops.total()),
            "custom ops": "0",
            "transposes": str(facts.ops["TRANSPOSE"]),
            "weights": f"{facts.half_bytes} bytes of float16, {facts.single_bytes} of float32",
        }

    def read_qparams(self, folder: Path, manifest: Manifest) -> ModelQParams:
        """The quantization parameters in the model file. Raises ContractError if it is damaged."""
        from converters.tflite.qparams_reader import read_qparams

        return read_qparams(folder / manifest.entry)

    def runs_here(self) -> str:
        """LiteRT comes as a package for every system that edgevit supports."""
        return ""

    def open(self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1) -> TFLiteSession:
        """Load with `threads` CPU threads and the XNNPACK delegate."""
        if accelerator != "cpu":
            raise UsageError(f"tflite runs on cpu here, not on {accelerator!r}", fix="use --accelerator cpu")
        return TFLiteSession(folder / manifest.entry, manifest, threads)

    def open_traced(
        self, folder: Path, manifest: Manifest, program: Program, nodes: Sequence[str]
    ) -> TracedTFLiteSession:
        """A copy of the file with more outputs; the operators and XNNPACK's part in them stay."""
        return TracedTFLiteSession(folder / manifest.entry, manifest, program, nodes)


def _contradictions(facts: FileFacts, manifest: Manifest) -> Iterator[str]:
    """Each way in which the file contradicts its manifest."""
    ends = (("inputs", facts.inputs, manifest.inputs), ("outputs", facts.outputs, manifest.outputs))
    for kind, found, specs in ends:
        declared = tuple((spec.name, spec.shape, spec.dtype) for spec in specs)
        if found != declared:
            yield f"has {kind} {found}, its manifest says {declared}"
    if facts.foreign_ops:
        yield f"needs ops that plain LiteRT lacks: {', '.join(facts.foreign_ops)}"
    if manifest.precision is Precision.FP32 and facts.half_bytes:
        yield f"holds {facts.half_bytes} bytes of float16, its manifest says fp32"
    whole = manifest.compression == INT8  # biases stay float32 beside int8 weights
    if manifest.precision is Precision.FP16 and not whole and facts.largest_single >= HALF_FROM_ELEMENTS:
        yield f"holds a float32 constant of {facts.largest_single} elements, its manifest says fp16"
    if facts.ops["TRANSPOSE"] != manifest.lowering.transposes:
        yield f"has {facts.ops['TRANSPOSE']} transposes, its manifest says {manifest.lowering.transposes}"


def _litert_version() -> str:
    return version("ai-edge-litert") or "unknown"


def _interpreter(path: Path, threads: int) -> Any:
    """A LiteRT interpreter with its memory allocated. Raises DeviceError if LiteRT refuses the file."""
    litert = require(_INTERPRETER, "tflite")
    with captured_native_output() as native:  # LiteRT announces its delegate on stderr
        try:
            interpreter = litert.Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            lines = [line for line in (native() or str(error)).splitlines() if line.strip()]
            raise DeviceError(
                f"LiteRT cannot load {path}: {lines[-1].strip()[:300]}",
                fix="the file is damaged or newer than this LiteRT; convert again with this version",
            ) from error
    return interpreter


def _specs(declared: tuple[TensorSpec, ...], shapes: list[tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs as the file has them: feature maps are channels-last there."""
    return tuple(
        TensorSpec(spec.name, shape, spec.dtype, Layout.NHWC if len(shape) == 4 else Layout.FLAT)
        for spec, shape in zip(declared, shapes, strict=True)
    )


def _lowering(path: Path) -> Lowering:
    """Count ops, and which of them XNNPACK takes, by loading the file as a session would."""
    from edgevit.contract.manifest import Lowering

    try:
        details = operators(_interpreter(path, threads=1))
    except DeviceError as error:
        raise ConversionError(error.message, fix="report this with the model") from error
    nodes = [detail for detail in details if detail["op_name"] != _DELEGATE]
    delegates = [detail for detail in details if detail["op_name"] == _DELEGATE]
    inside = _delegated(nodes, delegates)
    ops = Counter(node["op_name"] for node in nodes)
    outside = ops - Counter(nodes[index]["op_name"] for index in inside)
    return Lowering(
        nodes=len(nodes),
        delegated=len(inside),
        regions=len(delegates),
        transposes=ops["TRANSPOSE"],
        outside=dict(sorted(outside.items())),
        ops=dict(sorted(ops.items())),
    )


def _delegated(nodes: list[Operator], delegates: list[Operator]) -> set[int]:
    """Indices of the nodes that the delegates compute: from a delegate's outputs back to its inputs.

    LiteRT keeps the original nodes beside the delegate's, and records nowhere else which of them it replaced.
    """
    producer = {int(tensor): index for index, node in enumerate(nodes) for tensor in node["outputs"]}
    inside: set[int] = set()
    for delegate in delegates:
        given = {int(tensor) for tensor in delegate["inputs"]}
        todo = [int(tensor) for tensor in delegate["outputs"]]
        while todo:
            index = producer.get(tensor := todo.pop())
            if tensor not in given and index is not None and index not in inside:
                inside.add(index)
                todo += [int(source) for source in nodes[index]["inputs"]]
    return inside


def _shown(tensors: tuple[tuple[str, tuple[int, ...], str], ...]) -> str:
    return ", ".join(f"{name} {dtype} {'x'.join(map(str, shape))}" for name, shape, dtype in tensors)


CONVERTER = TFLiteConverter()
