"""Core ML: a Program becomes an .mlpackage (ML Program). Written and checked anywhere, executed on macOS only."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgevit.conversion import Converted, NotExecutable
from edgevit.errors import ContractError, ConversionError, UsageError
from edgevit.libraries import require
from edgevit.log import captured_native_output
from edgevit.program import Program, describe
from edgevit.spec import Precision

if TYPE_CHECKING:
    import numpy as np

    from edgevit.contract.manifest import Lowering, Manifest

MODEL_FILE = "model.mlpackage"
# Specification version that each deployment target writes (coremltools' own table).
SPEC_VERSIONS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}
_PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
_WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
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
        ct = _coremltools()
        units = {"cpu": ct.ComputeUnit.CPU_ONLY, "gpu": ct.ComputeUnit.CPU_AND_GPU, "ane": ct.ComputeUnit.CPU_AND_NE}
        if accelerator not in units:
            raise UsageError(f"coreml runs on {', '.join(units)}, not on {accelerator!r}", hint="use --accelerator")
        self.runtime = f"coreml {_macos_version()}"
        self.accelerator = accelerator
        self.threads = None  # Core ML chooses and does not tell
        self._outputs = manifest.outputs
        self._model = ct.models.MLModel(str(path), compute_units=units[accelerator])

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; float32 arrays by input name, copies by output name."""
        results = self._model.predict(dict(inputs))
        return {spec.name: results[spec.name].copy() for spec in self._outputs}

    def close(self) -> None:
        """Free the compiled model."""
        del self._model


class CoreMLConverter:
    """Writes model.mlpackage with float32 inputs and outputs and fp32 or fp16 arithmetic."""

    name = "coreml"
    suffix = ".mlpackage"
    precisions = frozenset({Precision.FP32, Precision.FP16})
    extra = "coreml"
    packages = ("coremltools",)
    runtime_modules = ("coremltools",)
    Options = Options

    def convert(self, program: Program, options: Options, out_dir: Path) -> Converted:
        """Write model.mlpackage. Raises ConversionError naming every op that Core ML has no form for."""
        ct = _coremltools()
        _require_ops(program)
        half = program.precision is Precision.FP16
        with _quiet():
            model = ct.convert(
                program.exported,
                inputs=[_float32(ct, spec.name, spec.shape) for spec in program.spec.inputs],
                outputs=[_float32(ct, spec.name) for spec in program.spec.outputs],
                minimum_deployment_target=getattr(ct.target, options.deployment_target),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                skip_model_load=True,
            )
            _describe(model, program, options)
            model.save(str(out_dir / MODEL_FILE))
        _make_reproducible(out_dir / MODEL_FILE)
        return Converted(MODEL_FILE, program.spec.inputs, program.spec.outputs, _lowering(model.get_spec()))

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Specification version, names, shapes, dtypes, precision, labels and weights against the manifest."""
        package = folder / manifest.entry
        spec = _read_spec(package)
        facts = {
            "specification version": str(spec.specificationVersion),
            "inputs": _features(spec.description.input),
            "outputs": _features(spec.description.output),
            "precision": _precision(spec),
            "labels": spec.description.metadata.userDefined["edgevit.labels"],
            "weights": f"{(package / _WEIGHTS).stat().st_size} bytes",
        }
        expected = {
            "specification version": str(SPEC_VERSIONS[manifest.provenance["options"]["deployment_target"]]),
            "inputs": _declared(manifest.inputs),
            "outputs": _declared(manifest.outputs),
            "precision": manifest.precision.value,
            "labels": json.dumps(list(manifest.labels)),
        }
        for fact, wanted in expected.items():
            if facts[fact] != wanted:
                raise ContractError(
                    f"{package}: {fact} is {facts[fact][:120]}, its manifest says {wanted[:120]}", hint="convert again"
                )
        _check_weights(spec, package)
        return facts

    def runs_here(self) -> str:
        """Core ML itself exists on Apple's systems alone."""
        return "" if sys.platform == "darwin" else "Core ML programs run on macOS and iOS only"

    def open(self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1) -> CoreMLSession:
        """Load in Core ML. Raises NotExecutable on anything but macOS."""
        if reason := self.runs_here():
            raise NotExecutable(reason, hint="verify and profile on a Mac")
        return CoreMLSession(folder / manifest.entry, manifest, accelerator)


def _coremltools() -> ModuleType:
    """coremltools, imported without TensorFlow, which it would load along and does not need here."""
    if "coremltools" in sys.modules:
        return sys.modules["coremltools"]
    hidden = "tensorflow" not in sys.modules
    if hidden:
        sys.modules["tensorflow"] = None  # makes `import tensorflow` fail, as on a machine without it
    try:
        with _quiet():
            return require("coremltools", "coreml")
    finally:
        if hidden:
            del sys.modules["tensorflow"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back coremltools' warnings of untested versions, its progress bars and its missing macOS libraries."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with captured_native_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _float32(ct: ModuleType, name: str, shape: tuple[int, ...] | None = None) -> Any:
    """A float32 tensor with our name: left alone, fp16 programs take and give float16, named after graph nodes."""
    import numpy as np

    return ct.TensorType(name=name, shape=shape, dtype=np.float32)


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


def _read_spec(package: Path) -> Any:
    """The package's protobuf, read without opening it as a model, which would rewrite its manifest."""
    _coremltools()
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    try:
        spec.ParseFromString((package / _PROGRAM).read_bytes())
    except (OSError, DecodeError) as error:
        raise ContractError(f"{package / _PROGRAM} is no Core ML model: {error}", hint="convert again") from error
    if not spec.HasField("mlProgram"):
        raise ContractError(f"{package} is not an ML Program", hint="convert again")
    return spec


def _operations(spec: Any) -> list[Any]:
    """Operations of all functions and blocks that compute something: constants are data."""
    blocks = [
        block for function in spec.mlProgram.functions.values() for block in function.block_specializations.values()
    ]
    found = []
    while blocks:
        for operation in blocks.pop().operations:
            blocks.extend(operation.blocks)
            found.append(operation)
    return [operation for operation in found if not operation.type.startswith("const")]


def _constants(spec: Any) -> list[Any]:
    blocks = [
        block for function in spec.mlProgram.functions.values() for block in function.block_specializations.values()
    ]
    return [operation for block in blocks for operation in block.operations if operation.type == "const"]


def _lowering(spec: Any) -> Lowering:
    from edgevit.contract.manifest import Lowering

    ops = Counter(operation.type for operation in _operations(spec))
    return Lowering(nodes=ops.total(), transposes=ops["transpose"], ops=dict(sorted(ops.items())))


def _precision(spec: Any) -> str:
    """fp16 if any operation but a cast computes in float16, else fp32."""
    from coremltools.proto import MIL_pb2

    half = any(
        output.type.tensorType.dataType == MIL_pb2.FLOAT16
        for operation in _operations(spec)
        if operation.type != "cast"
        for output in operation.outputs
    )
    return (Precision.FP16 if half else Precision.FP32).value


def _features(features: Any) -> str:
    """ "image float32 (1, 3, 224, 224)" for each multi-array feature."""
    from coremltools.proto import FeatureTypes_pb2

    names = {FeatureTypes_pb2.ArrayFeatureType.FLOAT32: "float32", FeatureTypes_pb2.ArrayFeatureType.FLOAT16: "float16"}
    return ", ".join(
        f"{feature.name} {names.get(feature.type.multiArrayType.dataType, 'other')} "
        f"{tuple(feature.type.multiArrayType.shape)}"
        for feature in features
    )


def _declared(specs: Any) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in specs)


def _check_weights(spec: Any, package: Path) -> None:
    """Every weight that the program refers to must start inside the weight file."""
    size = (package / _WEIGHTS).stat().st_size
    for constant in _constants(spec):
        value = constant.attributes["val"]
        if value.HasField("blobFileValue") and value.blobFileValue.offset >= size:
            raise ContractError(
                f"{package / _WEIGHTS} has {size} bytes, but a weight starts at {value.blobFileValue.offset}",
                hint="convert again; the file was cut off",
            )


def _macos_version() -> str:
    import platform

    return platform.mac_ver()[0] or "unknown"


CONVERTER = CoreMLConverter()
