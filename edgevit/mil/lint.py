"""Static checks of an ML Program: what can be known to be wrong, doubtful or costly without running it."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import ContractError
from edgevit.mil.ane_hints import HINTS
from edgevit.mil.opsets import INTRODUCED, OPSETS, SPEC_VERSIONS, deployment_target
from edgevit.mil.package import (
    ARRAY_TYPES,
    COLORS,
    DATA_TYPES,
    Package,
    body,
    computes_in,
    open_package,
    sizes_of,
    walk,
)
from edgevit.spec import Precision

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edgevit.contract.manifest import Manifest
    from edgevit.spec import TensorSpec

MAX_RANK = 5
FP16_MAX = 65504.0
_FP16, _FP32 = 10, 11  # MIL_pb2.DataType
_FLOATS = ("fp16", "fp32", "fp64")
# Ops through which an infinite constant is a mask, not an accident.
_MASKING = {"add", "sub", "select", "maximum", "minimum", "clip", "fill", "fill_like", "scaled_dot_product_attention"}
_SHOWN = 3  # names listed in a finding about many ops


class Level(StrEnum):
    """error: Core ML refuses it or it computes something else; warning: doubtful or slow; info: a fact."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a rule; `where` names the function and the values concerned."""

    level: Level
    rule: str
    message: str
    where: str = ""


class View:
    """One function of a package, indexed for the rules: computing ops, constants, types and users of values."""

    def __init__(self, package: Package, name: str) -> None:
        self.package = package
        self.name = name
        self.function = package.functions[name]
        self.block = body(self.function)
        self.inputs = {value.name: value.type for value in self.function.inputs}
        self.types: dict[str, Message] = dict(self.inputs)
        self.operations: list[Message] = []
        self.constants: dict[str, Message] = {}
        self.users: dict[str, set[str]] = defaultdict(set)
        for operation in walk(self.block):
            self._index(operation)

    def _index(self, operation: Message) -> None:
        self.types.update((output.name, output.type) for output in operation.outputs)
        for inner in operation.blocks:
            self.types.update((value.name, value.type) for value in inner.inputs)
        first = operation.outputs[0].name if operation.outputs else operation.type
        for key, value in operation.attributes.items():
            if key == "val" or operation.type.startswith("constexpr_"):
                self.constants[first if key == "val" else f"{first}.{key}"] = value
        if operation.type != "const":
            self.operations.append(operation)
        for key, argument in operation.inputs.items():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    self.constants[f"{first}.{key}"] = binding.value
                self.users[binding.name].add(operation.type)

    @property
    def half(self) -> bool:
        """The function computes in fp16, at least in part."""
        return any(computes_in(operation, _FP16) for operation in self.operations)

    def where(self, operations: Iterable[Message] = ()) -> str:
        """Where some operations are: "main: conv_0, conv_1, conv_2, ..."."""
        return self.named([operation.outputs[0].name for operation in operations if operation.outputs])

    def named(self, names: list[str]) -> str:
        """The same for names of values."""
        shown = ", ".join(name[:60] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return f"{self.name}: {shown}" if shown else self.name


def lint(package: Package | str | Path, *, manifest: Manifest | None = None) -> list[Finding]:
    """Findings of all rules, errors first. manifest: also check the package against its artifact's manifest.

    Raises ContractError for a package that cannot be read at all.
    """
    opened = package if isinstance(package, Package) else open_package(package)
    views = [View(opened, name) for name in sorted(opened.functions)]
    found = [finding for rule in PACKAGE_RULES for finding in rule(opened, views)]
    found += [finding for view in views for rule in FUNCTION_RULES for finding in rule(view)]
    if manifest is not None:
        found += _against_manifest(opened, views, manifest)
    return sorted(found, key=lambda finding: list(Level).index(finding.level))


def precision(views: list[View]) -> str:
    """ "int8" if activations are quantized, else "fp16" if any op but a cast computes in it, else "fp32"."""
    if any(operation.type == "quantize" for view in views for operation in view.operations):
        return Precision.INT8
    return "fp16" if any(view.half for view in views) else "fp32"


def compression(views: list[View]) -> str:
    """How weights are stored if in fewer bits than they are computed in: "int8", "palette4", ...; "" if they are not.

    Several forms, which our own converter never mixes, are joined by "+".
    """
    return "+".join(sorted({form for view in views for o in view.operations if (form := _stored_form(view, o))}))


def _stored_form(view: View, operation: Message) -> str:
    """The form that a constexpr op unpacks, "" for other ops; from iOS18 its operands are values, before attributes."""
    if not operation.type.startswith("constexpr_") or operation.type == "constexpr_cast":
        return ""
    key = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}.get(
        operation.type, "lut"
    )
    declared = _operand_type(view, operation, key)
    if declared is None:
        return "sparse"
    tensor = declared.tensorType
    if key == "lut":
        entries = [dimension.constant.size for dimension in tensor.dimensions]
        return f"palette{int(math.log2(max(1, entries[0] if len(entries) == 1 else entries[-2])))}" if entries else ""
    return DATA_TYPES[tensor.dataType].name.removeprefix("u") if tensor.dataType in DATA_TYPES else "unknown"


def _operand_type(view: View, operation: Message, key: str) -> Message | None:
    """Type of an operand wherever it is written: an attribute, a value in place, or a value of the program."""
    if key in operation.attributes:
        return operation.attributes[key].type
    bindings = operation.inputs[key].arguments if key in operation.inputs else ()
    if not bindings:
        return None
    return bindings[0].value.type if bindings[0].WhichOneof("binding") == "value" else view.types.get(bindings[0].name)


def features(values: Iterable[Message]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of declared inputs or outputs; images are ("image", (height, width))."""
    found = {}
    for value in values:
        form = value.type.WhichOneof("Type") or "nothing"
        if form == "multiArrayType":
            array = value.type.multiArrayType
            found[value.name] = (ARRAY_TYPES.get(array.dataType, "unknown"), tuple(array.shape))
        elif form == "imageType":
            found[value.name] = ("image", (value.type.imageType.height, value.type.imageType.width))
        else:
            found[value.name] = (form.removesuffix("Type"), ())
    return found


# Rules about the whole package.


def _version(package: Package, views: list[View]) -> Iterator[Finding]:
    version = package.spec.specificationVersion
    yield Finding(Level.INFO, "spec-version", f"specification version {version}: {deployment_target(version)} or newer")
    if version < min(SPEC_VERSIONS.values()):
        yield Finding(Level.ERROR, "spec-version", f"version {version} has no ML Programs")
    elif version > max(SPEC_VERSIONS.values()):
        yield Finding(Level.WARNING, "spec-version", f"version {version} is newer than this linter knows")
    for view in views:
        for opset in view.function.block_specializations:
            if opset not in OPSETS:
                yield Finding(Level.WARNING, "op-set", f"op set {opset[:40]!r} is not known", view.name)
            elif OPSETS[opset] > version:
                needed = deployment_target(OPSETS[opset])
                yield Finding(Level.ERROR, "op-set", f"{opset} needs {needed}, the package declares older", view.name)


def _metadata(package: Package, views: list[View]) -> Iterator[Finding]:
    metadata = package.spec.description.metadata
    fields = {
        "author": metadata.author,
        "licence": metadata.license,
        "description": metadata.shortDescription,
        "version": metadata.versionString,
        "preview type": metadata.userDefined.get("com.apple.coreml.model.preview.type", ""),
    }
    if missing := [name for name, value in fields.items() if not value]:
        yield Finding(Level.INFO, "metadata", f"not filled in: {', '.join(missing)}; Xcode shows them")


def _functions(package: Package, views: list[View]) -> Iterator[Finding]:
    description = package.spec.description
    declared = {item.name for item in description.functions}
    default = description.defaultFunctionName or "main"
    if default not in package.functions:
        yield Finding(Level.ERROR, "functions", f"the default function {default[:80]!r} does not exist")
    if declared and declared != set(package.functions):
        odd = ", ".join(sorted(name[:40] for name in declared ^ set(package.functions)))
        yield Finding(Level.ERROR, "functions", f"described or defined, but not both: {odd}")
    if len(views) > 1:
        yield Finding(Level.INFO, "functions", f"{len(views)} functions: {', '.join(view.name for view in views)}")


def _size(package: Package, views: list[View]) -> Iterator[Finding]:
    stored: dict[tuple[str, int], tuple[int, bool]] = {}  # a weight that functions share counts once
    for value in (value for view in views for value in view.constants.values()):
        if value.WhichOneof("value") == "blobFileValue" and _readable(package, value):
            kind, shape = package.tensor_type(value.type)
            key = value.blobFileValue.fileName, value.blobFileValue.offset
            stored[key] = kind.stored_bytes(math.prod(shape)), kind.bits < 16
    weights, program = sum(size for size, _ in stored.values()), package.program.stat().st_size
    files = sum(file.size for file in package.weight_files())
    small = sum(size for size, compressed in stored.values() if compressed)
    count = sum(len(view.operations) for view in views)
    share = f"{100 * small / weights:.0f} % of the weights compressed" if weights else "no weight file"
    per_op = (program + files) // max(count, 1)
    yield Finding(Level.INFO, "size", f"{program + files} bytes, {count} ops, {per_op} bytes per op, {share}")
    slack = files - weights - 128 * (len(stored) + 1)  # a record and its alignment take up to 128 bytes
    if slack > 4096:
        yield Finding(Level.WARNING, "unused-weights", f"{slack} bytes of the weight file are used by no constant")


def _labels(package: Package, views: list[View]) -> Iterator[Finding]:
    """Labels in the metadata against the width of the only output."""
    labels = _metadata_labels(package)
    if labels is None:
        yield Finding(Level.ERROR, "labels", "the metadata's edgevit.labels is no JSON list of names")
        return
    widths = [shape[1] for _, shape in features(package.spec.description.output).values() if len(shape) >= 2]
    if labels and len(widths) == 1 and widths[0] != len(labels):
        yield Finding(Level.ERROR, "labels", f"{len(labels)} labels, but the output has {widths[0]} classes")
    if len(set(labels)) < len(labels):
        doubled = [label[:40] for label, count in Counter(labels).items() if count > 1]
        yield Finding(Level.WARNING, "labels", f"labels that occur more than once: {', '.join(doubled[:5])}")


# Rules about one function.


def _known_ops(view: View) -> Iterator[Finding]:
    version = OPSETS.get(view.function.opset)
    unknown = Counter(operation.type for operation in view.operations if operation.type not in INTRODUCED)
    if unknown:
        names = ", ".join(f"{name[:40]} ({count})" for name, count in unknown.most_common(20))
        yield Finding(Level.ERROR, "unknown-op", f"no op set has {names}", view.name)
    newer = {o.type for o in view.operations if version is not None and INTRODUCED.get(o.type, 0) > version}
    if newer:
        names = ", ".join(f"{name} ({deployment_target(INTRODUCED[name])})" for name in sorted(newer))
        yield Finding(Level.ERROR, "op-newer-than-op-set", f"{view.function.opset} does not have {names}", view.name)
    if beyond := sorted({o.type for o in view.operations} - _evaluated_ops() - set(unknown)):
        yield Finding(Level.WARNING, "not-verifiable", f"the interpreter does not have {', '.join(beyond)}", view.name)


def _evaluated_ops() -> frozenset[str]:
    """Ops that the interpreter evaluates; asked late, for its table brings torch."""
    from edgevit.mil.ops import OPS
    from edgevit.mil.program import CONTROL_FLOW

    return CONTROL_FLOW | OPS.keys()


def _numbers(view: View) -> Iterator[Finding]:
    """Precision, operations kept in fp32, casts."""
    floats = [o for o in view.operations if computes_in(o, _FP16) or computes_in(o, _FP32)]
    float_fallback = [o for o in floats if not computes_in(o, _FP16)] if view.half else []
    casts = [o for o in view.operations if o.type == "cast"]
    name = "fp16" if view.half else "fp32"
    yield Finding(Level.INFO, "precision", f"{name}: {len(floats)} floating-point ops, {len(casts)} casts", view.name)
    if float_fallback:
        kinds = ", ".join(sorted({operation.type for operation in float_fallback}))
        message = f"{len(float_fallback)} op(s) compute in fp32 inside an fp16 program: {kinds}"
        yield Finding(Level.WARNING, "fp32-float-fallback", message, view.where(float_fallback))
    needed = len(view.function.inputs) + len(view.block.outputs)
    if view.half and len(casts) > needed:
        message = f"{len(casts)} casts where {needed} would serve inputs and outputs"
        yield Finding(Level.WARNING, "casts", message, view.where(casts))


def _shapes(view: View) -> Iterator[Finding]:
    ranks = {name: len(declared.tensorType.dimensions) for name, declared in view.types.items()}
    if high := [name for name, rank in ranks.items() if rank > MAX_RANK]:
        worst = max(ranks.values())
        yield Finding(Level.ERROR, "rank", f"rank {worst}, Core ML has {MAX_RANK} at most", view.named(high))
    dynamic = [
        name
        for name, declared in view.types.items()
        if any(d.WhichOneof("dimension") == "unknown" for d in declared.tensorType.dimensions)
    ]
    if dynamic:
        message = f"{len(dynamic)} value(s) have dimensions known at run time only"
        yield Finding(Level.WARNING, "dynamic-shape", message, view.named(dynamic))


def _interface(view: View) -> Iterator[Finding]:
    """The declared inputs and outputs against what the function takes and returns."""
    inputs, outputs = _described(view)
    returned = {name: view.types[name] for name in view.block.outputs if name in view.types}
    for side, described, defined in (("input", inputs, view.inputs), ("output", outputs, returned)):
        declared = features(described)
        for name in sorted(set(declared) ^ set(defined)):
            if side == "output" and declared.get(name, ("", ()))[0] in ("string", "int64", "dictionary"):
                continue  # Core ML makes a classifier's outputs from the op's results
            missing = "the function" if name in declared else "the description"
            if missing == "the description" and defined[name].WhichOneof("type") != "tensorType":
                continue  # states are described apart
            yield Finding(Level.ERROR, "interface", f"{side} {name[:80]!r} is missing in {missing}", view.name)
        for name in sorted(set(declared) & set(defined)):
            if declared[name][0] == "dictionary" == (defined[name].WhichOneof("type") or "").removesuffix("Type"):
                continue
            yield from _same_tensor(view, f"{side} {name[:80]!r}", declared[name], defined[name].tensorType)
    for name in features(outputs):
        if name.startswith(("var_", "linear_", "add_", "cast_")):
            yield Finding(Level.WARNING, "output-name", f"output {name[:80]!r} is named after a graph node", view.name)


def _same_tensor(view: View, what: str, declared: tuple[str, tuple[int, ...]], tensor: Message) -> Iterator[Finding]:
    dtype, shape = declared
    sizes = _sizes(tensor)
    kinds = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
    kind = DATA_TYPES[tensor.dataType].name if tensor.dataType in DATA_TYPES else "unknown"
    if dtype == "image":
        if sizes is not None and sizes[-2:] != shape:
            message = f"{what} is an image of {shape[1]}x{shape[0]}, the function has {sizes}"
            yield Finding(Level.ERROR, "interface", message, view.name)
        return
    if dtype != kinds.get(kind, kind):
        yield Finding(Level.ERROR, "interface", f"{what} is described as {dtype}, the function has {kind}", view.name)
    if shape and sizes is not None and sizes != shape:
        yield Finding(Level.ERROR, "interface", f"{what} is described as {shape}, the function has {sizes}", view.name)
    if dtype == "float16":
        yield Finding(Level.INFO, "half-interface", f"{what} is float16; apps need iOS16 and half buffers", view.name)


def _classifier(view: View) -> Iterator[Finding]:
    for operation in view.operations:
        if operation.type != "classify":
            continue
        value = view.constants.get(_source(operation, "classes") or f"{operation.outputs[0].name}.classes")
        declared = view.types.get(_source(operation, "probabilities"))
        sizes = None if declared is None else _sizes(declared.tensorType)
        if value is None or not sizes:
            yield Finding(Level.ERROR, "labels", "the classifier's labels or probabilities are missing", view.name)
            continue
        try:
            held = view.package.constant(value)
        except ContractError as error:
            yield Finding(Level.ERROR, "labels", error.message, view.name)
            continue
        labels = len(held) if isinstance(held, (list, np.ndarray)) else 1
        if labels != math.prod(sizes):
            message = f"{labels} labels for {math.prod(sizes)} probabilities"
            yield Finding(Level.ERROR, "labels", message, view.where([operation]))


def _weights(view: View) -> Iterator[Finding]:
    """Constants that cannot be read, that disagree with their declared type, or hold no proper numbers."""
    beyond = []
    for name, value in view.constants.items():
        if name in view.types and view.types[name] != value.type:
            yield Finding(Level.ERROR, "constant-type", "the value's type is not the declared one", view.named([name]))
        try:
            low, high = _extremes(view.package, value)
        except ContractError as error:
            yield Finding(Level.ERROR, "constant", error.message, view.named([name]))
            continue
        if math.isnan(low):
            yield Finding(Level.ERROR, "not-a-number", "holds NaN", view.named([name]))
        elif math.isinf(low) or math.isinf(high):
            mask = view.users[name] and view.users[name] <= _MASKING
            level = Level.WARNING if mask else Level.ERROR
            yield Finding(level, "infinite", "holds infinite values", view.named([name]))
        elif max(-low, high) > FP16_MAX:
            beyond.append(name)
    if beyond:
        message = f"{len(beyond)} constant(s) hold values beyond fp16's {FP16_MAX:.0f}"
        yield Finding(Level.WARNING if view.half else Level.INFO, "fp16-range", message, view.named(beyond))


def _engine(view: View) -> Iterator[Finding]:
    for hint in HINTS:
        if hits := [operation for operation in view.operations if hint.applies(operation, view.types)]:
            kinds = ", ".join(name for name, _ in Counter(hit.type for hit in hits).most_common(4))
            message = f"{len(hits)} op(s) ({kinds}): {hint.message} (Neural Engine hint: {hint.source})"
            yield Finding(Level.WARNING, hint.rule, message, view.where(hits))


# The package against its artifact's manifest.


def _against_manifest(package: Package, views: list[View], manifest: Manifest) -> Iterator[Finding]:
    description, metadata = package.spec.description, package.spec.description.metadata.userDefined
    target = manifest.provenance.options.get("deployment_target")
    facts: dict[str, tuple[Any, Any]] = {
        "precision": (precision(views), manifest.precision.value),
        "stored weights": (
            compression(views),
            "int8" if manifest.precision is Precision.INT8 else manifest.compression,
        ),
        "labels": (_metadata_labels(package), list(manifest.labels)),
        "model": (metadata.get("edgevit.model", manifest.model.name), manifest.model.name),
        "inputs": (_declared(description.input), [_tensor(spec) for spec in manifest.inputs]),
        "outputs": (_declared(description.output), [_tensor(spec) for spec in manifest.outputs]),
    }
    if target is not None:
        facts["deployment target"] = (deployment_target(package.spec.specificationVersion), target)
    if manifest.classifier is not None:
        label, probabilities = manifest.classifier.label, manifest.classifier.probabilities
        facts["outputs"][1].extend([(label, "string", ()), (probabilities, "dictionary", ())])
        named = (description.predictedFeatureName, description.predictedProbabilitiesName)
        facts["classifier"] = (named, (label, probabilities))
        facts["classifier's program"] = (_classified(views), [(list(manifest.labels), manifest.outputs[0].name)])
    for fact, (found, wanted) in facts.items():
        if found != wanted:
            message = f"{fact}: the package has {str(found)[:120]}, its manifest {str(wanted)[:120]}"
            yield Finding(Level.ERROR, "manifest", message)


def _declared(values: Iterable[Message]) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) of each declared feature; of an image (name, colour order, (height, width))."""
    colors = {
        value.name: COLORS.get(value.type.imageType.colorSpace, "")
        for value in values
        if value.type.WhichOneof("Type") == "imageType"
    }
    return [(name, colors.get(name, dtype), shape) for name, (dtype, shape) in features(values).items()]


def _tensor(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    """What `_declared` should give for a tensor of the manifest."""
    return (spec.name, spec.color, spec.shape[1:3]) if spec.color else (spec.name, spec.dtype, spec.shape)


def _classified(views: list[View]) -> list[tuple[list[str], str]]:
    """(labels in order, value whose softmax gives their probabilities) of each classify op; "" for anything else."""
    found = []
    for view in views:
        producers = {output.name: operation for operation in view.operations for output in operation.outputs}
        for operation in view.operations:
            if operation.type != "classify":
                continue
            softmax = producers.get(_source(operation, "probabilities"))
            sound = softmax is not None and softmax.type == "softmax" and _over_last_axis(view, softmax)
            found.append((_class_labels(view, operation), _source(softmax, "x") if sound else ""))
    return found


def _over_last_axis(view: View, softmax: Message) -> bool:
    """Whether a softmax adds up to 1 over the last axis of its operand."""
    value = view.constants.get(_source(softmax, "axis") or f"{softmax.outputs[0].name}.axis")
    try:
        axis = -1 if value is None else int(np.asarray(view.package.constant(value)).item())
    except (ContractError, TypeError, ValueError):
        return False
    return axis in (-1, len(softmax.outputs[0].type.tensorType.dimensions) - 1)


def _class_labels(view: View, classify: Message) -> list[str]:
    """A classifier's own labels; none if they cannot be read, which another rule reports."""
    name = _source(classify, "classes") or f"{classify.outputs[0].name}.classes"
    try:
        held = view.package.constant(view.constants[name])
    except (KeyError, ContractError):
        return []
    return [str(label) for label in held] if isinstance(held, (list, np.ndarray)) else []


def _source(operation: Message, key: str) -> str:
    """Name of the value behind an input; "" for one that is written in place or absent."""
    bindings = operation.inputs[key].arguments if key in operation.inputs else ()
    return bindings[0].name if bindings else ""


def _described(view: View) -> tuple[Iterable[Message], Iterable[Message]]:
    """Inputs and outputs that the description lists for a function: multifunction packages list each apart."""
    description = view.package.spec.description
    own = next((item for item in description.functions if item.name == view.name), description)
    return own.input, own.output


def _metadata_labels(package: Package) -> list[str] | None:
    """Labels that our converter wrote into the metadata, none if it did not; None if they cannot be read."""
    try:
        labels = json.loads(package.spec.description.metadata.userDefined.get("edgevit.labels", "[]"))
    except (ValueError, RecursionError):
        return None
    return labels if isinstance(labels, list) and all(isinstance(label, str) for label in labels) else None


def _sizes(tensor: Message) -> tuple[int, ...] | None:
    """The shape, None where a part of it is known at run time only."""
    sizes = sizes_of(tensor)
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None


def _readable(package: Package, value: Message) -> bool:
    """False for a constant that the rule about weights reports."""
    try:
        package.check_constant(value)
    except ContractError:
        return False
    return True


def _extremes(package: Package, value: Message) -> tuple[float, float]:
    """Least and greatest value of a float constant, (0, 0) for all else, after the checks of its storage."""
    package.check_constant(value)
    if value.WhichOneof("value") == "blobFileValue":
        kind, shape = package.tensor_type(value.type)
        stored = package.weight_file(value).stored(value.blobFileValue.offset, kind, math.prod(shape))
        numbers = stored.view(kind.numpy) if kind.name in _FLOATS else np.empty(0)  # mapped, not copied
    else:
        found = package.constant(value)
        numbers = np.asarray(found) if isinstance(found, (np.ndarray, np.generic)) else np.empty(0)
    if numbers.dtype.kind != "f" or not numbers.size:
        return 0.0, 0.0
    return float(numbers.min()), float(numbers.max())


PACKAGE_RULES: tuple[Callable[[Package, list[View]], Iterator[Finding]], ...] = (
    _version,
    _functions,
    _labels,
    _metadata,
    _size,
)
FUNCTION_RULES: tuple[Callable[[View], Iterator[Finding]], ...] = (
    _known_ops,
    _numbers,
    _shapes,
    _interface,
    _classifier,
    _weights,
    _engine,
)
