"""manifest.json: everything an app, a runner or a report needs to know about one artifact.

Its fields are documented in schemas/manifest.schema.json; Manifest.kt and Manifest.swift use the same names.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgevit.contract.raw_report import Runtime
from edgevit.contract.schema import read_document, validate
from edgevit.infra.files import write_json
from edgevit.spec import Interpolation, Layout, ModelSpec, Precision, Preprocess, Task, TensorSpec, Tier

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1
INTERPRETER_RUNTIME = "reference interpreter"  # how the name of a runtime begins that is none, but evaluates a file


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The part of a ModelSpec that outlives its code."""

    name: str
    task: Task
    tier: str
    num_classes: int
    input_size: int
    params: int
    macs: int
    paper: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the artifact: POSIX path relative to the folder, hash and size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Golden:
    """One image walked through all levels: level name -> {"file", "shape", "dtype"}, plus the crop's integers."""

    name: str
    geometry: dict[str, int]
    levels: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What parity must reach; null where a bound does not apply."""

    max_relative_error: float | None = None
    min_snr_db: float | None = None


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of an artifact's outputs with the checkpoint's, over `samples` inputs.

    max_relative_error is max|a-b| / max|b| of the worst sample; snr_db and cosine are of the worst sample
    too (snr_db is null when the outputs are equal to the bit). agreement is the share of samples with
    the same top-1 class, or the mean IoU of the two masks. executed is False where no runtime for the
    format exists on the machine: then every number is null and `reason` says why.
    """

    executed: bool
    runtime: str
    samples: int = 0
    max_abs_error: float | None = None
    max_relative_error: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    reason: str = ""

    @property
    def interpreted(self) -> bool:
        """Whether the reference interpreter gave the outputs, in place of the format's own runtime."""
        return self.runtime.startswith(INTERPRETER_RUNTIME)


class Outcome(StrEnum):
    """What came of running a file under some settings, against the checkpoint's outputs."""

    EQUAL = "equal"
    WITHIN = "within"
    DIFFERS = "differs"
    CRASHED = "crashed"
    NOT_EXECUTED = "not_executed"


@dataclass(frozen=True, slots=True)
class Executed:
    """One way in which the file was run before it was called right.

    settings: of the runtime, by name. The numbers are those of Parity, over all outputs of all goldens; null where they
    are equal to the bit or nothing ran. operations: how many of them an accelerator took; null if it was not asked.
    """

    runtime: Runtime
    settings: dict[str, str]
    outcome: Outcome
    reason: str | None = None
    max_relative_error: float | None = None
    snr_db: float | None = None
    operations: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Lowering:
    """What the target's compiler made of the graph.

    nodes: operations in the lowered graph; delegated: those inside a delegate, in `regions` pieces;
    outside: op name -> count of those left over; transposes: layout changes in the file. null: not applicable.
    """

    nodes: int
    delegated: int | None = None
    regions: int | None = None
    transposes: int | None = None
    outside: dict[str, int] = field(default_factory=dict)
    ops: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """A graph in numbers; depthwise_taps is those of its largest depthwise kernel, transposes includes permutes."""

    operations: int
    macs: int
    depthwise_taps: int
    transposes: int


@dataclass(frozen=True, slots=True)
class Classifier:
    """Outputs that a classifier has beside its logits: the likeliest label, and a map from label to probability."""

    label: str
    probabilities: str


@dataclass(frozen=True, slots=True)
class AppliedPass:
    """One exact rewrite that fired: where (module paths), the probe's relative error, and the graph around it."""

    name: str
    changes: int
    probe_error: float
    places: tuple[str, ...] = ()
    before: GraphFacts | None = None
    after: GraphFacts | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The typed form of manifest.json."""

    name: str
    model: ModelFacts
    target: str
    precision: Precision
    entry: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    normalize_table: bytes  # (3, 256) float32, little-endian
    labels: tuple[str, ...]
    files: tuple[FileEntry, ...]
    goldens: tuple[Golden, ...]
    tolerance: Tolerance
    parity: Parity
    lowering: Lowering
    deploy: tuple[AppliedPass, ...]
    checks: dict[str, str]
    provenance: dict[str, Any]
    classifier: Classifier | None = None
    compression: str = ""  # of stored weights: "int8", "palette4"; "" for as many bits as are computed in
    dynamic_batch: bool = False  # the leading axis of inputs and outputs may have any length; their specs say 1
    accelerator: str = "cpu"  # where it runs unless another is asked for
    executed: tuple[Executed, ...] = ()  # under the settings of phones, where the target has any

    @property
    def entry_size_bytes(self) -> int:
        """Bytes of the model file, or of all files in the model package."""
        return sum(f.size_bytes for f in self.files if f.path == self.entry or f.path.startswith(self.entry + "/"))

    def to_json(self) -> dict[str, Any]:
        """The document as written; raises ContractError if it would break the schema."""
        body = dataclasses.asdict(self)
        table = body.pop("normalize_table")
        body["preprocess"]["normalize_table"] = base64.b64encode(table).decode()
        document = _plain({"schema": "edgevit.manifest", "schema_version": SCHEMA_VERSION, **body})
        validate(document, "manifest", f"manifest of {self.name}")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Manifest:
        """Rebuild the typed form from a validated document; unknown keys are ignored."""
        take = {f.name: document[f.name] for f in dataclasses.fields(cls) if f.name in document}
        preprocess = dict(document["preprocess"])
        table = base64.b64decode(preprocess.pop("normalize_table"))
        return cls(
            **take
            | {
                "model": _build(ModelFacts, document["model"], task=Task),
                "precision": Precision(document["precision"]),
                "inputs": tuple(_tensor(t) for t in document["inputs"]),
                "outputs": tuple(_tensor(t) for t in document["outputs"]),
                "preprocess": preprocess_from_json(preprocess),
                "normalize_table": table,
                "labels": tuple(document["labels"]),
                "files": tuple(_build(FileEntry, f) for f in document["files"]),
                "goldens": tuple(_build(Golden, g) for g in document["goldens"]),
                "tolerance": _build(Tolerance, document["tolerance"]),
                "parity": _build(Parity, document["parity"]),
                "lowering": _build(Lowering, document["lowering"]),
                "deploy": tuple(applied_pass_from_json(step) for step in document["deploy"]),
                "classifier": _build(Classifier, document["classifier"]) if document.get("classifier") else None,
                "executed": tuple(
                    _build(Executed, row, runtime=lambda one: _build(Runtime, one), outcome=Outcome)
                    for row in document.get("executed", ())
                ),
            }
        )

    def write(self, folder: Path) -> None:
        """Write manifest.json into the artifact folder: the last file, so its presence means whole."""
        write_json(folder / FILE_NAME, self.to_json())


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact folder's manifest. Raises ContractError."""
    return Manifest.from_json(read_document(folder / FILE_NAME, "manifest"))


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """A ModelSpec without its code."""
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "build"}
    return _plain(
        {
            key: [dataclasses.asdict(t) for t in value]
            if key in ("inputs", "outputs")
            else dataclasses.asdict(value)
            if key == "preprocess"
            else value
            for key, value in fields.items()
        }
    )


def spec_from_json(document: dict[str, Any]) -> ModelSpec:
    """A ModelSpec from its JSON form; its `build` is None."""
    return ModelSpec(
        **document
        | {
            "task": Task(document["task"]),
            "tier": Tier(document["tier"]),
            "build": None,
            "inputs": tuple(_tensor(t) for t in document["inputs"]),
            "outputs": tuple(_tensor(t) for t in document["outputs"]),
            "preprocess": preprocess_from_json(document["preprocess"]),
        }
    )


def preprocess_from_json(document: dict[str, Any]) -> Preprocess:
    """A Preprocess from its JSON form."""
    return Preprocess(
        resize=document["resize"],
        crop=tuple(document["crop"]),
        mean=tuple(document["mean"]),
        std=tuple(document["std"]),
        interpolation=Interpolation(document["interpolation"]),
    )


def applied_pass_from_json(document: dict[str, Any]) -> AppliedPass:
    """An AppliedPass from its JSON form; the graph's numbers are null in older manifests."""
    return _build(AppliedPass, document, places=tuple, before=_graph_facts, after=_graph_facts)


def _graph_facts(document: dict[str, Any] | None) -> GraphFacts | None:
    return None if document is None else _build(GraphFacts, document)


def _tensor(document: dict[str, Any]) -> TensorSpec:
    return TensorSpec(
        document["name"],
        tuple(document["shape"]),
        document["dtype"],
        Layout(document["layout"]),
        document.get("color", ""),
    )


def _build(cls: type, document: dict[str, Any], **convert: Any) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    return cls(**{key: convert.get(key, lambda v: v)(value) for key, value in document.items() if key in known})


def _plain(value: Any) -> Any:
    """Tuples to lists, enums to their values: what a JSON reader would give back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value
