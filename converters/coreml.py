"""Core ML: a Program becomes an .mlpackage (ML Program).

Written and checked anywhere. Core ML itself runs it on macOS; elsewhere edgevit's reference interpreter evaluates it,
which proves what the program means, not what a device computes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgevit.conversion import INTERPRETER, Converted
from edgevit.errors import ContractError, ConversionError, UsageError
from edgevit.libraries import require
from edgevit.mil.opsets import SPEC_VERSIONS
from edgevit.mil.protos import coremltools, quiet
from edgevit.program import Program, describe
from edgevit.spec import Precision

if TYPE_CHECKING:
    import numpy as np

    from edgevit.contract.manifest import Lowering, Manifest
    from edgevit.mil.package import Package

MODEL_FILE = "model.mlpackage"
_NAMESPACE = uuid.UUID("9c1ed8b5-9a52-4f6e-8f43-6d0b7c9d9a37")  # of the package's item identifiers


@dataclass(frozen=True, slots=True)
class Options:
    """deployment_target: oldest system that shall run it; the others fill the fields that Xcode shows."""

    deployment_target: str = "iOS17"
    author: str = ""
    license: str = ""
    description: str = ""
    model_version: str = ""

    def __post_init__(self) -> None:
        if self.deployment_target not in SPEC_VERSIONS:
            raise UsageError(
                f"unknown deployment target {self.deployment_target!r}", hint="one of: " + ", ".join(SPEC_VERSIONS)
            )


class CoreMLSession:
    """An .mlpackage in Core ML itself (macOS)."""

    def __init__(self, path: Path, manifest: Manifest, accelerator: str) -> None:
        ct = coremltools()
        units = {"cpu": ct.ComputeUnit.CPU_ONLY, "gpu": ct.ComputeUnit.CPU_AND_GPU, "ane": ct.ComputeUnit.CPU_AND_NE}
        if accelerator not in units:
            raise UsageError(f"coreml runs on {', '.join(units)}, not on {accelerator!r}", hint="use --accelerator")
        self.runtime = f"coreml {_macos_version()}"
        self.accelerator = accelerator
        self.threads = None  # Core ML chooses and does not tell
        self._outputs = manifest.outputs
        # A copy: opening a package as a model rewrites its manifest, whose hash ours holds.
        self._folder = tempfile.TemporaryDirectory(prefix="edgevit-coreml-")
        copy = shutil.copytree(path, Path(self._folder.name) / path.name)
        self._model = ct.models.MLModel(str(copy), compute_units=units[accelerator])

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; float32 arrays by input name, copies by output name."""
        results = self._model.predict(dict(inputs))
        return {spec.name: results[spec.name].copy() for spec in self._outputs}

    def close(self) -> None:
        """Free the compiled model and its copy."""
        del self._model
        self._folder.cleanup()


class InterpreterSession:
    """An .mlpackage in edgevit's reference interpreter: fp16 programs with every result rounded to fp16."""

    accelerator = INTERPRETER
    threads = None

    def __init__(self, path: Path, manifest: Manifest) -> None:
        from edgevit.mil import Interpreter
        from edgevit.mil.shapes import shape_check

        mode = "declared" if manifest.precision is Precision.FP16 else "fp32"
        self.runtime = f"reference interpreter, {mode}"
        self._outputs = manifest.outputs
        self._interpreter = Interpreter(path, mode=mode)
        self._observe = shape_check(self._interpreter.package, self._interpreter.function)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One evaluation; float32 arrays by input name, copies by output name."""
        results = self._interpreter.predict(dict(inputs), observe=self._observe)
        return {spec.name: results[spec.name].astype(spec.dtype) for spec in self._outputs}

    def close(self) -> None:
        """Free the weights."""
        del self._interpreter


class CoreMLConverter:
    """Writes model.mlpackage with float32 inputs and outputs and fp32 or fp16 arithmetic."""

    name = "coreml"
    suffix = ".mlpackage"
    kernels = "coreml"
    precisions = frozenset({Precision.FP32, Precision.FP16})
    extra = "coreml"
    packages = ("coremltools",)
    runtime_modules = ("coremltools",)
    Options = Options

    def convert(self, program: Program, options: Options, out_dir: Path) -> Converted:
        """Write model.mlpackage. Raises ConversionError naming every op that Core ML has no form for."""
        ct = coremltools()
        _require_ops(program)
        half = program.precision is Precision.FP16
        with quiet():
            model = ct.convert(
                program.exported.run_decompositions({}),  # it wants the dialect's name, not other operations
                inputs=[_float32(ct, spec.name, spec.shape) for spec in program.spec.inputs],
                outputs=[_float32(ct, spec.name) for spec in program.spec.outputs],
                minimum_deployment_target=getattr(ct.target, options.deployment_target),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                pass_pipeline=_exact_passes(ct),
                skip_model_load=True,
            )
            _describe(model, program, options)
            model.save(str(out_dir / MODEL_FILE))
        _make_reproducible(out_dir / MODEL_FILE)
        return Converted(MODEL_FILE, program.spec.inputs, program.spec.outputs, _lowering(out_dir / MODEL_FILE))

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Lint the package and hold it to the manifest. Raises ContractError for the first error-level finding."""
        from edgevit.mil.lint import Level, features, lint
        from edgevit.mil.package import open_package

        package = open_package(folder / manifest.entry)
        findings = lint(package, manifest=manifest)
        errors = [finding for finding in findings if finding.level is Level.ERROR]
        if errors:
            raise ContractError(f"{package.path}: {errors[0].message}", hint="convert again")
        warnings = sum(finding.level is Level.WARNING for finding in findings)
        description = package.spec.description
        return {
            "specification version": str(package.spec.specificationVersion),
            "inputs": _shown(features(description.input)),
            "outputs": _shown(features(description.output)),
            "precision": manifest.precision.value,
            "labels": description.metadata.userDefined["edgevit.labels"],
            "weights": f"{sum(file.size for file in package.weight_files())} bytes",
            "lint": f"no errors, {warnings} warnings",
        }

    def runs_here(self) -> str:
        """Core ML itself exists on Apple's systems alone."""
        return "" if sys.platform == "darwin" else "evaluated by the reference interpreter; Core ML itself needs macOS"

    def open(
        self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1
    ) -> CoreMLSession | InterpreterSession:
        """Load in Core ML; in the reference interpreter where there is none, or as accelerator "interpreter"."""
        path = folder / manifest.entry
        if sys.platform == "darwin" and accelerator != INTERPRETER:
            return CoreMLSession(path, manifest, accelerator)
        if accelerator not in ("cpu", INTERPRETER):
            raise UsageError(
                f"coreml has no {accelerator!r} without Core ML", hint="use a Mac, or leave --accelerator out"
            )
        return InterpreterSession(path, manifest)


def _float32(ct: ModuleType, name: str, shape: tuple[int, ...] | None = None) -> Any:
    """A float32 tensor with our name: left alone, fp16 programs take and give float16, named after graph nodes."""
    import numpy as np

    return ct.TensorType(name=name, shape=shape, dtype=np.float32)


def _exact_passes(ct: ModuleType) -> Any:
    """coremltools' own passes but one: it turns x * a + b into a batch_norm of variance 1 with epsilon 1e-5.

    That scales every such x by 1 / sqrt(1 + 1e-5); VAN-B0's LayerNorms together lost 6e-6 of the output to it.
    """
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    return pipeline


def _require_ops(program: Program) -> None:
    registry = require("coremltools.converters.mil.frontend.torch.torch_op_registry", "coreml")._TORCH_OPS_REGISTRY
    missing = [
        describe(node)
        for node in program.exported.graph.nodes
        if node.op == "call_function"
        and "getitem" not in str(node.target)
        and registry.get_func(str(node.target)) is None
    ]
    if missing:
        raise ConversionError(
            f"coreml has no form for {len(missing)} op(s) of {program.spec.name}: {'; '.join(missing)}",
            hint="rewrite those modules with plain arithmetic, convolutions and matrix products",
        )


def _describe(model: Any, program: Program, options: Options) -> None:
    """Fill what Xcode shows, and the labels and preprocessing that an app without our manifest needs."""
    import dataclasses

    spec = program.spec
    model.author = options.author
    model.license = options.license
    model.short_description = options.description or f"{spec.name}, {spec.task.value}, {spec.paper}"
    model.version = options.model_version
    model.user_defined_metadata["edgevit.model"] = spec.name
    model.user_defined_metadata["edgevit.labels"] = json.dumps(list(program.labels))
    model.user_defined_metadata["edgevit.preprocess"] = json.dumps(dataclasses.asdict(spec.preprocess))
    # The day of conversion is in the manifest; here it would make equal models differ.
    del model.user_defined_metadata["com.github.apple.coremltools.conversion_date"]


def _make_reproducible(package: Path) -> None:
    """Drop the debug map and replace the random item identifiers, so that the same program gives the same bytes."""
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    manifest = package / "Manifest.json"
    document = json.loads(manifest.read_text())
    renamed = {old: str(uuid.uuid5(_NAMESPACE, item["path"])) for old, item in document["itemInfoEntries"].items()}
    document["itemInfoEntries"] = {renamed[old]: item for old, item in document["itemInfoEntries"].items()}
    document["rootModelIdentifier"] = renamed[document["rootModelIdentifier"]]
    manifest.write_text(json.dumps(document, indent=4, sort_keys=True))


def _operations(package: Package) -> list[Any]:
    """Operations of all functions and blocks that compute something: constants are data."""
    from edgevit.mil.package import body, walk

    found = [operation for function in package.functions.values() for operation in walk(body(function))]
    return [operation for operation in found if not operation.type.startswith("const")]


def _lowering(path: Path) -> Lowering:
    from edgevit.contract.manifest import Lowering
    from edgevit.mil.package import open_package

    ops = Counter(operation.type for operation in _operations(open_package(path)))
    return Lowering(nodes=ops.total(), transposes=ops["transpose"], ops=dict(sorted(ops.items())))


def _shown(features: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    """ "image float32 (1, 3, 224, 224)" for each input or output."""
    return ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in features.items())


def _macos_version() -> str:
    import platform

    return platform.mac_ver()[0] or "unknown"


CONVERTER = CoreMLConverter()
