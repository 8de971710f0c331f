"""ExecuTorch: a Program becomes a .pte, its subgraphs lowered to XNNPACK."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.executorch import runtime_settings
from converters.executorch.packing import name_packed_weights
from converters.executorch.partitioning import with_own_constants, xnnpack_partitioner
from converters.executorch.pte_reader import read_contents
from converters.executorch.remove_data_movement import DataMovementRemover
from converters.executorch.serializing import rewritten
from converters.executorch.weight_storage import compress_weights, take_quantized_weights
from edgevit.compat import executorch as runtime
from edgevit.compat.torch import shared_node_origins
from edgevit.errors import ContractError, ConversionError, DeviceError, UsageError
from edgevit.export.program import Program
from edgevit.graph.edit import source_of
from edgevit.graph.node_names import module_path
from edgevit.infra.optional_imports import require, version
from edgevit.log import captured_native_output
from edgevit.quantization.weight_storage import WeightStorageOptions, recorded_kind, require_float
from edgevit.spec import Precision, TensorSpec, Tier
from edgevit.targets.base import Audit, Converted, ModelFile, input_arrays

if TYPE_CHECKING:
    import numpy as np
    from torch import fx

    from edgevit.contract.manifest import Lowering, Manifest
    from edgevit.quantization.model_qparams import ModelQParams
    from edgevit.quantization.qparams import QuantizedWeight

MODEL_FILE = "model.pte"
# Every weight is a segment of its own. XNNPACK asks 16 bytes of constants and aligns itself what it packs; the default
# of 128 is mostly padding in small networks.
_SEGMENT_ALIGNMENT = 16
_METHOD = "forward"
_DTYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 11: "bool"}  # of ScalarType
_MAGIC = b"ET12"  # file identifier of the program flatbuffer, at byte 4


@dataclass(frozen=True, slots=True)
class ExecuTorchOptions(WeightStorageOptions):
    """How weights are stored, and nothing else."""


class ExecuTorchSession:
    """A .pte in ExecuTorch's own runtime, on the CPU."""

    accelerator = "cpu"

    def __init__(self, path: Path, manifest: Manifest | ModelFile, threads: int) -> None:
        runtime.bindings()
        self.runtime = f"executorch {version('executorch')}"
        self._manifest = manifest
        with captured_native_output() as native:
            self.threads = runtime.set_threads(threads)  # one pool per process: the last load wins
            try:
                self._module = runtime.load_module(path)
                self._module.method_meta(_METHOD)  # loading is lazy: this reads the program
            except RuntimeError as error:
                raise DeviceError(
                    f"ExecuTorch cannot load {path}: {_last_line(native(), error)}",
                    fix="its runtime lacks a kernel or is older than the file; convert again with this version",
                ) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; float32 arrays by input name, copies by output name."""
        results = self._results(inputs)
        return {spec.name: result for spec, result in zip(self._manifest.outputs, results, strict=True)}

    def _results(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        import torch

        tensors = tuple(map(torch.from_numpy, input_arrays(inputs, self._manifest)))
        return [result.numpy() for result in self._module.forward(tensors, clone_outputs=True)]

    def close(self) -> None:
        """Free the program and its delegates."""
        del self._module


class TracedExecuTorchSession(ExecuTorchSession):
    """A program lowered again that also outputs recorded intermediate activations, by node name."""

    def __init__(self, manifest: Manifest, program: Program, nodes: Sequence[str]) -> None:
        data, self.lowering = _lowered(program, nodes)
        self._program, self._nodes = program, tuple(nodes)
        with tempfile.TemporaryDirectory(prefix="edgevit-executorch-") as folder:
            path = Path(folder, MODEL_FILE)
            path.write_bytes(data)
            super().__init__(path, manifest, threads=1)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; the program's outputs, and the nodes' values."""
        from edgevit.graph.intermediate_outputs import integers

        results = self._results(inputs)
        names = (*(spec.name for spec in self._manifest.outputs), *self._nodes)
        values = dict(zip(names, results, strict=True))
        own = {name: values.pop(name) for name in names[: len(self._manifest.outputs)]}
        return own | integers(self._program.exported, values)


class ExecuTorchConverter:
    """Writes model.pte with the XNNPACK delegate and runs it with the portable runtime."""

    name = "executorch"
    suffix = ".pte"
    kernels = "xnnpack"
    tier = Tier.EDGE
    keeps_float32 = False
    ml_program = False
    dynamic_batch = False
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.INT8})
    extra = "executorch"
    packages = ("executorch",)
    runtime_modules = ("torch", runtime.BINDINGS)
    Options = ExecuTorchOptions
    settings = runtime_settings.SETTINGS

    def convert(self, program: Program, options: ExecuTorchOptions, out_dir: Path) -> Converted:
        """Lower to XNNPACK and write model.pte. Raises ConversionError naming every op without a kernel.

        FP16 stores weights as float16; XNNPACK casts them to float32 when it loads, so arithmetic is float32
        on every processor.
        """
        require_float(program.precision, options.weight_compression)
        data, lowering = _lowered(program)
        (out_dir / MODEL_FILE).write_bytes(data)
        compression = recorded_kind(options.weight_compression)
        return Converted(MODEL_FILE, program.spec.inputs, program.spec.outputs, lowering, compression=compression)

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Identifier, method, shapes and dtypes of the file against the manifest."""
        path = folder / manifest.entry
        with path.open("rb") as file:
            magic = file.read(8)[4:8]
        if magic[:2] != _MAGIC[:2]:
            raise ContractError(f"{path} is not an ExecuTorch program (identifier {magic!r})", fix="convert again")
        described = self.describe(path)
        facts = {}
        for kind in ("inputs", "outputs"):
            found, declared = ([spec.shape for spec in getattr(one, kind)] for one in (described, manifest))
            if found != declared:
                raise ContractError(f"{path} has {kind} {found}, its manifest says {declared}", fix="convert again")
            facts[kind] = str(found)
        return {"identifier": magic.decode(), "method": _METHOD, **facts}

    def audit(self, path: Path) -> Audit:
        """Whether XNNPACK's weights cache, which phones have on, will find each weight's own packing in the file."""
        from converters.executorch.packing import audit

        runtime.bindings()
        return audit(read_contents(path).delegates)

    def describe(self, path: Path) -> ModelFile:
        """Tensors of the file's method, called input0, ... and output0, ..., because it has no names for them."""
        runtime.bindings()
        with captured_native_output():
            try:
                module = runtime.load_module(path)
                if set(module.method_names()) != {_METHOD}:
                    raise RuntimeError(f"its methods are {', '.join(sorted(module.method_names()))}")
                meta = module.method_meta(_METHOD)
                sides = (
                    ("input", meta.num_inputs(), meta.input_tensor_meta),
                    ("output", meta.num_outputs(), meta.output_tensor_meta),
                )
                inputs, outputs = (
                    tuple(_tensor(f"{side}{index}", get(index)) for index in range(count)) for side, count, get in sides
                )
            except (RuntimeError, IndexError) as error:
                raise DeviceError(
                    f"ExecuTorch cannot run {path} here: {error}",
                    fix=f"a whole .pte can be checked whose one method {_METHOD!r} takes and gives plain tensors",
                ) from error
        return ModelFile(path.name, inputs, outputs)

    def switch(self, settings: Mapping[str, str]) -> None:
        """Change this process for good: see runtime_settings.py."""
        runtime_settings.switch(settings)

    def confirm(self, settings: Mapping[str, str], path: Path) -> None:
        """Read the options back, and look whether the file is mapped."""
        runtime_settings.confirm(settings, path)

    def read_qparams(self, folder: Path, manifest: Manifest) -> ModelQParams:
        """The quantization parameters in the model file. Raises ContractError if it is damaged."""
        from converters.executorch.qparams_reader import read_qparams

        runtime.bindings()
        return read_qparams(folder / manifest.entry)

    def runs_here(self) -> str:
        """The runtime comes with the package, for every system that has it."""
        return ""

    def open(
        self, folder: Path, manifest: Manifest | ModelFile, accelerator: str = "cpu", threads: int = 1
    ) -> ExecuTorchSession:
        """Load with `threads` CPU threads; XNNPACK is the delegate that the file asks for."""
        if accelerator != "cpu":
            raise UsageError(f"executorch runs on cpu here, not on {accelerator!r}", fix="use --accelerator cpu")
        return ExecuTorchSession(folder / manifest.entry, manifest, threads)

    def open_traced(
        self, folder: Path, manifest: Manifest, program: Program, nodes: Sequence[str]
    ) -> TracedExecuTorchSession:
        """The program lowered again with more outputs: the file itself cannot output intermediate activations."""
        return TracedExecuTorchSession(manifest, program, nodes)


def _lowered(program: Program, traced: Sequence[str] = ()) -> tuple[bytes, Lowering]:
    """A program as the bytes of a .pte file. Raises ConversionError naming every op without a kernel.

    traced: nodes of it whose values become further outputs.
    """
    require("executorch.exir", "executorch")
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    from edgevit.graph.intermediate_outputs import with_outputs

    # Ops outside core ATen are let through here, so that the runtime's own list of kernels decides,
    # and all that it lacks are named at once.
    exported = program.exported
    qparams: Mapping[bytes, QuantizedWeight] = {}
    if program.precision is not Precision.INT8:
        exported, qparams = take_quantized_weights(exported)
    if traced:
        exported = with_outputs(exported, traced)
    remover = DataMovementRemover()
    compress = functools.partial(compress_weights, qparams=qparams, half=program.precision is Precision.FP16)
    with (
        rewritten(remover.rewrite, compress, name_packed_weights),
        shared_node_origins(),
        runtime.without_idle_passes(),
    ):
        edge = to_edge_transform_and_lower(
            with_own_constants(exported),
            partitioner=[xnnpack_partitioner()],
            compile_config=runtime.unchecked_edge_config(),
        )
    graph_module = edge.exported_program().graph_module
    _require_kernels(graph_module, program.spec.name)
    # Before memory planning, which adds operations of its own to the graph.
    lowering = _lowering(graph_module, remover.transposes)
    return edge.to_executorch(ExecutorchBackendConfig(segment_alignment=_SEGMENT_ALIGNMENT)).buffer, lowering


def _operations(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that compute; getitem only unpacks."""
    return [node for node in graph.nodes if node.op == "call_function" and "getitem" not in str(node.target)]


def _delegates(graph_module: fx.GraphModule) -> list[Any]:
    """The lowered submodules that delegate calls of the graph refer to."""
    calls = [node for node in _operations(graph_module.graph) if "executorch_call_delegate" in str(node.target)]
    return [getattr(graph_module, str(source_of(call).target)) for call in calls]


def _op_name(node: fx.Node) -> str:
    """ "aten.conv2d.default" for a torch op and for its edge form alike."""
    return str(runtime.aten_operation(node.target))


def _lowering(graph_module: fx.GraphModule, transposes: int) -> Lowering:
    """`transposes`: those inside the delegates."""
    from edgevit.contract.manifest import Lowering

    delegates = _delegates(graph_module)
    inside = Counter(_op_name(n) for d in delegates for n in _operations(d.original_module.graph))
    outside = Counter(
        _op_name(n) for n in _operations(graph_module.graph) if "executorch_call_delegate" not in str(n.target)
    )
    return Lowering(
        nodes=inside.total() + outside.total(),
        delegated=inside.total(),
        regions=len(delegates),
        transposes=transposes + outside["aten.permute_copy.default"],
        outside=dict(sorted(outside.items())),
        ops=dict(sorted((inside + outside).items())),
    )


def _require_kernels(graph_module: fx.GraphModule, model: str) -> None:
    """Raise ConversionError naming every op that neither XNNPACK takes nor the runtime has a kernel for."""
    with captured_native_output():
        known = {name.split(".")[0] for name in runtime.kernel_names()}
    missing = [
        f"{_op_name(node)} at {module_path(node) or 'top level'}"
        for node in _operations(graph_module.graph)
        if _op_name(node).startswith("aten.") and f"aten::{_op_name(node).split('.')[1]}" not in known
    ]
    if missing:
        raise ConversionError(
            f"executorch has no kernel for {len(missing)} op(s) of {model}: {'; '.join(missing)}",
            fix="rewrite those modules with plain arithmetic, convolutions and matrix products",
        )


def _tensor(name: str, info: Any) -> TensorSpec:
    if info.dtype() not in _DTYPES:
        raise RuntimeError(f"{name} has scalar type {info.dtype()}, known are {', '.join(_DTYPES.values())}")
    return TensorSpec(name, tuple(info.sizes()), _DTYPES[info.dtype()])


def _last_line(native: str, error: Exception) -> str:
    lines = [line for line in native.splitlines() if line.strip()]
    return (lines[-1] if lines else str(error)).strip()[:300]


CONVERTER = ExecuTorchConverter()
