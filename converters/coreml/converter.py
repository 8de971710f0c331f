"""Core ML: a Program becomes an .mlpackage (ML Program).

Written and checked anywhere. Core ML itself runs it on macOS; elsewhere edgevit's reference interpreter evaluates it,
which proves what the program means, not what a device computes.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from converters.coreml import classifier, compression, deduplicate, image_input
from edgevit.compat.coremltools import has_form, open_coremltools, quiet_coremltools
from edgevit.contract.manifest import Tolerance
from edgevit.errors import ContractError, ConversionError, UsageError
from edgevit.export.program import Program
from edgevit.graph.node_names import describe
from edgevit.mil.opsets import SPEC_VERSIONS
from edgevit.quantization.weight_storage import INT8, UNCOMPRESSED, recorded_kind, require_float, require_kind
from edgevit.spec import Precision, Task, Tier
from edgevit.targets.base import INTERPRETER, Converted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converters.coreml.layer_values import TracedInterpreterSession
    from converters.coreml.sessions import CoreMLSession, InterpreterSession
    from edgevit.contract.manifest import Lowering, Manifest
    from edgevit.mil.package import Package
    from edgevit.quantization.model_qparams import ModelQParams
    from edgevit.spec import TensorSpec

EXACT, FP16 = "exact", "fp16"  # what int8 is computed in

MODEL_FILE = "model.mlpackage"
PROGRAM_FILE = "Data/com.apple.CoreML/model.mlmodel"  # inside the package
PREVIEW_TYPE, PREVIEW_PARAMETERS = (f"com.apple.coreml.model.preview.{key}" for key in ("type", "parameters"))
_AS_TRAINED = Tolerance(min_snr_db=35.0)  # of equal int8 networks, up to float operations that round the other way
_NAMESPACE = uuid.UUID("9c1ed8b5-9a52-4f6e-8f43-6d0b7c9d9a37")  # of the package's item identifiers


@dataclass(frozen=True, slots=True)
class CoreMLOptions:
    """How a package is written; the last four fill the fields that Xcode shows.

    deployment_target: oldest system that shall run it. image_input: the input is an RGB image, and the program
    normalises it. classifier: also return the likeliest label and a probability by label. weight_compression: how
    large weights are stored, "none" for as many bits as the precision has. int8_compute: "exact" emulates integer
    arithmetic in float32 on CPU and GPU and gives the outputs of the other targets; "fp16" computes in float16 between
    the quantized tensors, on the Neural Engine too.
    """

    deployment_target: str = "iOS17"
    image_input: bool = False
    classifier: bool = False
    weight_compression: str = field(default=UNCOMPRESSED, metadata={"numeric": True})
    int8_compute: str = field(default=EXACT, metadata={"numeric": True})
    author: str = ""
    license: str = ""
    description: str = ""
    model_version: str = ""

    def __post_init__(self) -> None:
        if self.deployment_target not in SPEC_VERSIONS:
            raise UsageError(
                f"unknown deployment target {self.deployment_target!r}", fix="one of: " + ", ".join(SPEC_VERSIONS)
            )
        require_kind(self.weight_compression, compression.KINDS)
        if self.int8_compute not in (EXACT, FP16):
            raise UsageError(f"unknown int8_compute {self.int8_compute!r}", fix=f"one of: {EXACT}, {FP16}")
        if self.weight_compression != UNCOMPRESSED and self.deployment_target == "iOS15":
            raise UsageError("iOS15 has no compressed weights", fix="-O deployment_target=iOS16 or newer")


class CoreMLConverter:
    """Writes model.mlpackage with float32 inputs and outputs and fp32, fp16 or int8 arithmetic.

    In int8 weights are stored as integers and activations quantized where the program quantizes them; between the
    quantized tensors it computes as `CoreMLOptions.int8_compute` asks.
    """

    name = "coreml"
    suffix = ".mlpackage"
    kernels = "coreml"
    tier = Tier.EDGE
    keeps_float32 = False
    ml_program = True
    dynamic_batch = False
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.INT8})
    extra = "coreml"
    packages = ("coremltools",)
    runtime_modules = ("coremltools",)
    Options = CoreMLOptions

    def convert(self, program: Program, options: CoreMLOptions, out_dir: Path) -> Converted:
        """Write model.mlpackage.

        Raises ConversionError naming every op that Core ML has no form for, UsageError for a classifier without labels.
        """
        ct = open_coremltools()
        _require_ops(program)
        if options.classifier:
            classifier.require_labels(program)
        require_float(program.precision, options.weight_compression)
        if options.int8_compute != EXACT and program.precision is not Precision.INT8:
            raise UsageError("only int8 has an int8_compute to choose", fix="--precision int8, or leave it out")
        exact = program.precision is Precision.INT8 and options.int8_compute == EXACT
        inputs, package = program.spec.inputs, out_dir / MODEL_FILE
        if options.image_input:
            inputs = tuple(image_input.image_spec(spec) for spec in inputs)
        exported = program.exported
        if exact:
            from edgevit.quantization.integer_emulation import emulate_integers

            exported = emulate_integers(exported)
        if options.image_input:
            exported = image_input.from_pixels(exported, program.spec.preprocess)
        with quiet_coremltools():
            model = ct.convert(
                exported.run_decompositions({}),
                inputs=[_input(ct, spec, image=options.image_input) for spec in program.spec.inputs],
                outputs=[_float32(ct, spec.name) for spec in program.spec.outputs],
                minimum_deployment_target=getattr(ct.target, options.deployment_target),
                compute_precision=_compute_precision(
                    ct, halves=not exact and program.precision is not Precision.FP32, image=options.image_input
                ),
                pass_pipeline=_passes(ct, options),
                skip_model_load=True,
            )
            _describe(model, program, options)
            model.save(str(package))
        deduplicate.slim(package / PROGRAM_FILE)
        if options.classifier:
            classifier.add_classifier(package / PROGRAM_FILE, program.labels, program.spec.outputs[0].name)
        _make_reproducible(package)
        if options.weight_compression != UNCOMPRESSED:
            compression.require_compressed(package, options.weight_compression)
        return Converted(
            MODEL_FILE,
            inputs,
            program.spec.outputs,
            _lowering(package),
            classifier=classifier.OUTPUTS if options.classifier else None,
            compression=recorded_kind(options.weight_compression),
            tolerance=_AS_TRAINED if exact else compression.TOLERANCES.get(options.weight_compression),
        )

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Lint the package and hold it to the manifest. Raises ContractError for the first error-level finding."""
        from edgevit.mil.lint import Level, features, lint
        from edgevit.mil.package import open_package

        package = open_package(folder / manifest.entry)
        findings = lint(package, manifest=manifest)
        errors = [finding for finding in findings if finding.level is Level.ERROR]
        if errors:
            raise ContractError(f"{package.path}: {errors[0].message}", fix="convert again")
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

    def read_qparams(self, folder: Path, manifest: Manifest) -> ModelQParams:
        """The quantization parameters in the model file. Raises ContractError if it is damaged."""
        from converters.coreml.qparams_reader import read_qparams

        return read_qparams(folder / manifest.entry)

    def runs_here(self) -> str:
        """Core ML itself exists on Apple's systems alone."""
        return "" if sys.platform == "darwin" else "evaluated by the reference interpreter; Core ML itself needs macOS"

    def open(
        self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1
    ) -> CoreMLSession | InterpreterSession:
        """Load in Core ML; in the reference interpreter where there is none, or as accelerator "interpreter"."""
        from converters.coreml.sessions import CoreMLSession, InterpreterSession

        path = folder / manifest.entry
        if sys.platform == "darwin" and accelerator != INTERPRETER:
            return CoreMLSession(path, manifest, accelerator)
        if accelerator not in ("cpu", INTERPRETER):
            raise UsageError(
                f"coreml has no {accelerator!r} without Core ML", fix="use a Mac, or leave --accelerator out"
            )
        return InterpreterSession(path, manifest)

    def open_traced(
        self, folder: Path, manifest: Manifest, program: Program, nodes: Sequence[str]
    ) -> TracedInterpreterSession:
        """The file itself in the reference interpreter, on any system: Core ML does not give intermediate activations.

        Raises UsageError for a file with other operations than its program.
        """
        from converters.coreml.layer_values import TracedInterpreterSession

        return TracedInterpreterSession(folder / manifest.entry, manifest, program, nodes)


def _input(ct: ModuleType, spec: TensorSpec, *, image: bool) -> Any:
    """The normalised tensor `spec`, or the RGB image that it is made from."""
    if image:
        return ct.ImageType(name=spec.name, shape=spec.shape, color_layout=image_input.COLOR)
    return _float32(ct, spec.name, spec.shape)


def _compute_precision(ct: ModuleType, *, halves: bool, image: bool) -> Any:
    """fp32, or fp16 but for the operations that lose too much in it."""
    if not halves:
        return ct.precision.FLOAT32
    if not image:
        return ct.precision.FLOAT16
    return ct.transform.FP16ComputePrecision(op_selector=lambda operation: not image_input.normalizes(operation))


def _float32(ct: ModuleType, name: str, shape: tuple[int, ...] | None = None) -> Any:
    """A float32 tensor with our name: left alone, fp16 programs take and give float16, named after graph nodes."""
    import numpy as np

    return ct.TensorType(name=name, shape=shape, dtype=np.float32)


def _passes(ct: ModuleType, options: CoreMLOptions) -> Any:
    """Those of coremltools but two.

    One turns x * a + b into a batch_norm of variance 1 with epsilon 1e-5. That scales every such x by
    1 / sqrt(1 + 1e-5); VAN-B0's LayerNorms together lost 6e-6 of the output to it. The other divides the scales
    around every int8 addition by one of them, and rounds the quotients to float16: no longer the checkpoint's scales.
    """
    pipeline = ct.PassPipeline()
    pipeline.remove_passes(
        {
            "common::fuse_elementwise_to_batchnorm",
            "common::distributive_quantized_binary_op_scale_normalization",
        }
    )
    if options.weight_compression not in (UNCOMPRESSED, INT8):
        compression.add_pass(pipeline, options.weight_compression)
    return pipeline


def _require_ops(program: Program) -> None:
    missing = [
        describe(node)
        for node in program.exported.graph.nodes
        if node.op == "call_function" and "getitem" not in str(node.target) and not has_form(node.target)
    ]
    if missing:
        raise ConversionError(
            f"coreml has no form for {len(missing)} op(s) of {program.spec.name}: {'; '.join(missing)}",
            fix="rewrite those modules with plain arithmetic, convolutions and matrix products",
        )


def _describe(model: Any, program: Program, options: CoreMLOptions) -> None:
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
    if options.image_input and options.classifier:
        model.user_defined_metadata[PREVIEW_TYPE] = "imageClassifier"
    if options.image_input and spec.task is Task.SEGMENT and spec.num_classes > 1:  # it shows the largest logit
        model.user_defined_metadata[PREVIEW_TYPE] = "imageSegmenter"
        labels = program.labels or [f"class {i}" for i in range(spec.num_classes)]
        model.user_defined_metadata[PREVIEW_PARAMETERS] = json.dumps({"labels": list(labels)})
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


CONVERTER = CoreMLConverter()
