"""ONNX: a Program becomes an .onnx file for any number of images, run by ONNX Runtime.

It is what Triton, TensorRT and ONNX Runtime servers take: standard operators only, weights inside the file.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import ContractError, DeviceError
from edgevit.export.program import Program
from edgevit.infra.optional_imports import require
from edgevit.spec import Precision, TensorSpec, Tier
from edgevit.targets.base import Converted, NotExecutable, input_arrays

if TYPE_CHECKING:
    import numpy as np

    from converters.onnx.model import FileFacts
    from edgevit.contract.manifest import Manifest
    from edgevit.quantization.model_qparams import ModelQParams

MODEL_FILE = "model.onnx"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """No options yet: a server picks its execution provider when it loads the file."""


class OnnxSession:
    """An .onnx file in ONNX Runtime, on the CPU or a CUDA device."""

    def __init__(
        self, path: Path, manifest: Manifest, accelerator: str, threads: int, recorded: Sequence[str] = ()
    ) -> None:
        """recorded: names of intermediate activations, more outputs that the file has."""
        runtime = require("onnxruntime", "onnx")
        self.runtime = f"onnxruntime {runtime.__version__}"
        self.threads = threads
        self._manifest, self._recorded = manifest, recorded
        wanted = _PROVIDERS.get(accelerator)
        if wanted not in runtime.get_available_providers():
            known = [name for name, provider in _PROVIDERS.items() if provider in runtime.get_available_providers()]
            raise NotExecutable(
                f"this ONNX Runtime does not run on {accelerator!r}",
                fix=f"it runs on {', '.join(known)}; for cuda install onnxruntime-gpu in place of onnxruntime",
            )
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3  # errors; warnings are about its own optimisations
        providers = [wanted] if accelerator == "cpu" else [wanted, _PROVIDERS["cpu"]]
        try:
            self._session = runtime.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:  # its exceptions have no common base
            raise DeviceError(
                f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0][:300]}",
                fix="the file is damaged or newer than this ONNX Runtime; convert again with this version",
            ) from error
        used = self._session.get_providers()[0]
        self.accelerator = next(name for name, provider in _PROVIDERS.items() if provider == used)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference of any number of images; float32 arrays by name."""
        names = [spec.name for spec in self._manifest.inputs]
        results = [*(spec.name for spec in self._manifest.outputs), *self._recorded]
        fed = dict(zip(names, input_arrays(inputs, self._manifest), strict=True))
        return dict(zip(results, self._session.run(results, fed), strict=True))

    def close(self) -> None:
        """Free the session's memory."""
        del self._session


class TracedOnnxSession(OnnxSession):
    """A program exported again that also outputs recorded intermediate activations by node name, on the CPU."""

    def __init__(self, path: Path, manifest: Manifest, program: Program, nodes: Sequence[str]) -> None:
        for module in ("onnx", "onnxscript"):
            require(module, "onnx")
        from converters.onnx.export import export_onnx, recorded_names

        self._program, self._nodes = program, tuple(nodes)
        with tempfile.TemporaryDirectory(prefix="edgevit-onnx-") as folder:
            again, traced = Path(folder, "again.onnx"), Path(folder, "traced.onnx")
            export_onnx(program, again)
            if again.read_bytes() != path.read_bytes():
                raise ContractError(
                    f"{path} is not what this version of edgevit makes of its checkpoint",
                    fix="convert again, then debug what that gives",
                )
            export_onnx(program, traced, nodes)
            super().__init__(traced, manifest, "cpu", threads=1, recorded=recorded_names(nodes))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; the program's outputs, and the nodes' values."""
        from edgevit.graph.intermediate_outputs import integers

        values = super().run(inputs)
        own = {spec.name: values.pop(spec.name) for spec in self._manifest.outputs}
        recorded = dict(zip(self._nodes, values.values(), strict=True))
        return own | integers(self._program.exported, recorded)


class OnnxConverter:
    """Writes model.onnx with float32 inputs and outputs and fp32, fp16 or int8 arithmetic.

    INT8 is QuantizeLinear and DequantizeLinear pairs with the checkpoint's quantization parameters, which runtimes fuse
    into integer kernels where they have them.
    """

    name = "onnx"
    suffix = ".onnx"
    kernels = "server"
    tier = Tier.SERVER
    keeps_float32 = False
    ml_program = False
    dynamic_batch = True
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.INT8})
    extra = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    runtime_modules = ("onnxruntime",)
    Options = OnnxOptions

    def convert(self, program: Program, options: OnnxOptions, out_dir: Path) -> Converted:
        """Write model.onnx. Raises ConversionError naming every op without an ONNX form."""
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, "onnx")
        from converters.onnx.export import export_onnx
        from converters.onnx.model import read_facts
        from edgevit.contract.manifest import Lowering

        export_onnx(program, out_dir / MODEL_FILE)
        ops = read_facts(out_dir / MODEL_FILE).ops
        lowering = Lowering(ops.total(), transposes=ops["Transpose"], ops=dict(sorted(ops.items())))
        return Converted(MODEL_FILE, program.spec.inputs, program.spec.outputs, lowering)

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """The checker of ONNX, then ends, operators and weight types against the manifest."""
        require("onnx", "onnx")
        from converters.onnx.model import read_facts

        path = folder / manifest.entry
        facts = read_facts(path)
        for contradiction in _contradictions(facts, manifest):
            raise ContractError(f"{path} {contradiction}", fix="convert again")
        return {
            "opset": str(facts.opset),
            "inputs": _shown(facts.inputs),
            "outputs": _shown(facts.outputs),
            "ops": str(facts.ops.total()),
            "custom ops": "0",
            "weights": ", ".join(f"{count} of {kind}" for kind, count in sorted(facts.weights.items())),
        }

    def read_qparams(self, folder: Path, manifest: Manifest) -> ModelQParams:
        """The quantization parameters in the model file. Raises ContractError if it is damaged."""
        require("onnx", "onnx")
        from converters.onnx.qparams_reader import read_qparams

        return read_qparams(folder / manifest.entry)

    def runs_here(self) -> str:
        """ONNX Runtime comes as a package for every system that edgevit supports."""
        return ""

    def open(self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1) -> OnnxSession:
        """Load with `threads` CPU threads, on cpu or cuda; what CUDA has no kernel for runs on the CPU."""
        return OnnxSession(folder / manifest.entry, manifest, accelerator, threads)

    def open_traced(
        self, folder: Path, manifest: Manifest, program: Program, nodes: Sequence[str]
    ) -> TracedOnnxSession:
        """The program exported again with more outputs; what ONNX Runtime would have fused is computed on its own."""
        return TracedOnnxSession(folder / manifest.entry, manifest, program, nodes)


def _contradictions(facts: FileFacts, manifest: Manifest) -> Iterator[str]:
    """Each way in which the file contradicts its manifest."""
    ends = (("inputs", facts.inputs, manifest.inputs), ("outputs", facts.outputs, manifest.outputs))
    for kind, found, specs in ends:
        declared = tuple(map(_declared, specs))
        if found != declared:
            yield f"has {kind} {_shown(found)}, its manifest says {_shown(declared)}"
    if facts.domains - {""}:
        yield f"needs operators that are not ONNX's own: {', '.join(sorted(facts.domains - {''}))}"
    allowed = {Precision.FP32: "float", Precision.FP16: "float16"}
    foreign = Counter({kind: n for kind, n in facts.weights.items() if kind.startswith(("float", "bfloat", "double"))})
    if manifest.precision in allowed and foreign.keys() - {allowed[manifest.precision]}:
        yield f"has weights of {', '.join(sorted(foreign))}, its manifest says {manifest.precision}"
    if facts.ops.total() != manifest.lowering.nodes:
        yield f"has {facts.ops.total()} operators, its manifest says {manifest.lowering.nodes}"


def _declared(spec: TensorSpec) -> tuple[str, tuple[str, ...], str]:
    """An end as the file names it: the batch is a symbol."""
    return spec.name, ("batch", *map(str, spec.shape[1:])), spec.dtype


def _shown(ends: tuple[tuple[str, tuple[str, ...], str], ...]) -> str:
    return ", ".join(f"{name} {dtype} {'x'.join(shape)}" for name, shape, dtype in ends)


CONVERTER = OnnxConverter()
