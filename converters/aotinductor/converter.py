"""AOTInductor: a Program becomes a .pt2 package, compiled code for the CPU of this machine or for its CUDA device.

A package is a shared library: to load one is to run its code. It is loaded only from an artifact folder whose hashes
match its manifest, and only when the artifact is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.compat.torch import AOTI_MODULE, load_aoti_package
from edgevit.errors import ContractError, ConversionError, DeviceError, EdgevitError, UsageError
from edgevit.export.program import Program
from edgevit.infra.optional_imports import require, version
from edgevit.log import captured_native_output
from edgevit.spec import Precision, Tier
from edgevit.targets.base import Converted, NotExecutable, input_arrays

if TYPE_CHECKING:
    import numpy as np

    from edgevit.contract.manifest import Manifest
    from edgevit.quantization.model_qparams import ModelQParams

MODEL_FILE = "model.pt2"
ACCELERATORS = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class AOTInductorOptions:
    """accelerator: what the code is compiled for, cpu or cuda; it must be there when converting."""

    accelerator: str = field(default="cpu", metadata={"named": True})

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise UsageError(f"unknown accelerator {self.accelerator!r}", fix="one of: " + ", ".join(ACCELERATORS))


class AOTInductorSession:
    """A .pt2 package in torch's process, its shared library loaded."""

    def __init__(self, path: Path, manifest: Manifest, threads: int) -> None:
        torch = require("torch", "aotinductor")
        require(AOTI_MODULE, "aotinductor")
        self.runtime = f"aotinductor {version('torch')}"
        self.accelerator = manifest.accelerator
        torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self._manifest = manifest
        try:
            with captured_native_output():
                self._package = load_aoti_package(path)
        except RuntimeError as error:
            raise DeviceError(
                f"torch cannot load {path}: {str(error).strip().splitlines()[0][:300]}",
                fix="it was compiled by another version of torch; convert again with this one",
            ) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference of any number of images; float32 arrays by name, in this machine's memory."""
        import torch

        tensors = [torch.from_numpy(array).to(self.accelerator) for array in input_arrays(inputs, self._manifest)]
        with torch.inference_mode():
            results = self._package(*tensors)
        results = results if isinstance(results, (list, tuple)) else (results,)
        specs = self._manifest.outputs
        return {spec.name: result.cpu().numpy() for spec, result in zip(specs, results, strict=True)}

    def close(self) -> None:
        """Free the package's weights; the library stays mapped until the process ends."""
        del self._package


class AOTInductorConverter:
    """Writes model.pt2 with float32 inputs and outputs and fp32, fp16 or bf16 arithmetic."""

    name = "aotinductor"
    suffix = ".pt2"
    kernels = "server"
    tier = Tier.SERVER
    keeps_float32 = True
    ml_program = False
    dynamic_batch = True
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.BF16})
    extra = "aotinductor"
    packages = ("torch",)
    runtime_modules = ("torch", AOTI_MODULE)
    Options = AOTInductorOptions

    def convert(self, program: Program, options: AOTInductorOptions, out_dir: Path) -> Converted:
        """Compile and write model.pt2. Raises ConversionError with the message of Inductor or the C++ compiler."""
        from converters.aotinductor.compiler import compile_package
        from edgevit.contract.manifest import Lowering

        if options.accelerator == "cuda":
            _require_cuda(ConversionError)
        compile_package(program, options.accelerator, out_dir / MODEL_FILE)
        calls = [node for node in program.exported.graph.nodes if node.op == "call_function"]
        ops = Counter(str(node.target) for node in calls if "getitem" not in str(node.target))
        lowering = Lowering(ops.total(), ops=dict(sorted(ops.items())))
        spec = program.spec
        return Converted(MODEL_FILE, spec.inputs, spec.outputs, lowering, accelerator=options.accelerator)

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """The package's metadata against the manifest; its code is not loaded."""
        from converters.aotinductor.package import contradictions, read_facts

        path = folder / manifest.entry
        facts = read_facts(path)
        for contradiction in contradictions(facts, manifest):
            raise ContractError(f"{path} {contradiction}", fix="convert again")
        return {
            "library": f"{facts.library_bytes / 1e6:.1f} MB",
            "compiled for": facts.machine,
            "torch": facts.torch,
        }

    def read_qparams(self, folder: Path, manifest: Manifest) -> ModelQParams:
        """No package holds quantization parameters."""
        raise ContractError(
            f"{manifest.name}: a compiled package holds no quantization parameters", fix="convert again"
        )

    def runs_here(self) -> str:
        """torch runs everywhere; compiling also needs a C++ compiler."""
        return ""

    def open(self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1) -> AOTInductorSession:
        """Load the shared library, which runs code of the package, with `threads` CPU threads of torch's pool.

        Raises UsageError for another accelerator than it was compiled for, NotExecutable on a machine that lacks it.
        """
        from converters.aotinductor.package import missing_here, read_facts

        if accelerator != manifest.accelerator:
            raise UsageError(
                f"{manifest.name} was compiled for {manifest.accelerator}, not for {accelerator!r}",
                fix=f"convert with -O accelerator={accelerator}",
            )
        lacking = missing_here(read_facts(folder / manifest.entry))
        if lacking:
            raise NotExecutable(
                f"{manifest.name} was compiled for a machine with {', '.join(lacking)}",
                fix="convert on this one, with --no-cache",
            )
        if accelerator == "cuda":
            _require_cuda(NotExecutable)
        return AOTInductorSession(folder / manifest.entry, manifest, threads)

    def open_traced(
        self, folder: Path, manifest: Manifest, program: Program, nodes: Sequence[str]
    ) -> AOTInductorSession:
        """Compiled kernels span many nodes, whose values nobody can read."""
        raise UsageError(
            f"{manifest.name} is compiled code, which shows no layers",
            fix="debug the onnx artifact, which is made of the same program",
        )


def _require_cuda(error: type[EdgevitError]) -> None:
    import torch

    if not torch.cuda.is_available():
        raise error("torch finds no CUDA device here", fix="use a CUDA build of torch on a machine with a GPU")


CONVERTER = AOTInductorConverter()
