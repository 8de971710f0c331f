"""manifest.json: everything an app, a runner or a report needs to know about one artifact.

Its fields are documented in schemas/manifest.schema.json; Manifest.kt and Manifest.swift use the same names.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgevit.contract.plain_data import build, fields_of, items, optional, plain
from edgevit.contract.provenance import Provenance
from edgevit.contract.raw_report import Runtime
from edgevit.contract.schema import VERSION, broken, read_document, validate
from edgevit.errors import UsageError
from edgevit.infra.files import write_json
from edgevit.spec import Interpolation, Layout, ModelSpec, Precision, Preprocess, Task, TensorSpec, Tier

FILE_NAME = "manifest.json"
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # of file managers: never listed, never opened
_TABLE_BYTES = 256 * 4  # of one channel
INTERPRETER_RUNTIME = "reference interpreter"  # prefix of the runtime's name where an interpreter evaluated the file


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The part of a ModelSpec that outlives its code; num_classes is None where the task is TENSOR."""

    name: str
    task: Task
    tier: str
    num_classes: int | None
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
    """One input walked through all levels: level name -> {"file", "shape", "dtype"}, plus the crop's integers.

    Without preprocessing there is no image: then geometry is None and the levels start with L2.
    """

    name: str
    geometry: dict[str, int] | None
    levels: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The bounds of parity; null where a bound does not apply.

    float16_min_snr_db: where the accelerator computes in fp16, null if that was not tried.
    """

    max_relative_error: float | None = None
    min_snr_db: float | None = None
    float16_min_snr_db: float | None = None

    @property
    def bounds_nothing(self) -> bool:
        """Whether no bound applies where the accelerator computes in float32."""
        return self.max_relative_error is None and self.min_snr_db is None

    def missed_by(self, max_relative_error: float | None, snr_db: float | None) -> list[str]:
        """The bounds that measured numbers miss, in words; no error misses its bound, no SNR means equal outputs."""
        found = []
        if self.max_relative_error is not None:
            if max_relative_error is None:
                found.append("max rel. error is not known")
            elif not max_relative_error <= self.max_relative_error:
                found.append(f"max rel. error {max_relative_error:.2e}, at most {self.max_relative_error:.2g} allowed")
        if self.min_snr_db is not None and snr_db is not None and not snr_db >= self.min_snr_db:
            found.append(f"SNR {snr_db:.1f} dB, at least {round(self.min_snr_db, 1):g} dB needed")
        return found


@dataclass(frozen=True, slots=True)
class Executed:
    """Agreement of an artifact's outputs with the checkpoint's, over `samples` inputs.

    max_relative_error is max|a-b| / max|b| of the worst sample; snr_db and cosine are of the worst sample too (snr_db
    is None when the outputs are bit-exact). agreement is the share of samples with the same top-1 class, or the mean
    IoU of the two masks. reason: what is wrong with outputs that cannot be compared.
    """

    runtime: str
    samples: int
    max_abs_error: float
    max_relative_error: float
    snr_db: float | None
    cosine: float
    agreement: float
    reason: str = ""

    @property
    def interpreted(self) -> bool:
        """Whether the reference interpreter gave the outputs, in place of the format's own runtime."""
        return self.runtime.startswith(INTERPRETER_RUNTIME)


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """No runtime for the artifact was available, and why; runtime: the target's name."""

    runtime: str
    reason: str = ""


Parity = Executed | NotExecuted


def parity_to_json(parity: Parity) -> dict[str, Any]:
    """One form for both, as documents have it: `executed` tells them apart, what was not measured is null."""
    measured = fields_of(parity)
    numbers = {field.name: measured.get(field.name) for field in dataclasses.fields(Executed)}
    return {"executed": isinstance(parity, Executed), **numbers, "samples": measured.get("samples", 0)}


def parity_from_json(document: dict[str, Any]) -> Parity:
    """What `parity_to_json` wrote."""
    return build(Executed, document) if document["executed"] else build(NotExecuted, document)


class Outcome(StrEnum):
    """The result of running a file under some settings, against the checkpoint's outputs."""

    EQUAL = "equal"
    WITHIN = "within"
    DIFFERS = "differs"
    CRASHED = "crashed"
    NOT_EXECUTED = "not_executed"


@dataclass(frozen=True, slots=True)
class SettingsRun:
    """One way in which the file was run before it was called right: a row of the manifest's `executed`.

    settings: of the runtime, by name. The numbers are those of Executed, over all outputs of all goldens; null where
    they are bit-exact or nothing ran. operations: how many an accelerator took; null if unknown.
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
    """One exact rewrite that was applied: where (module paths), the probe's relative error, and the graph around it."""

    name: str
    changes: int
    probe_error: float
    places: tuple[str, ...] = ()
    before: GraphFacts | None = None
    after: GraphFacts | None = None


@dataclass(frozen=True, slots=True)
class ReferenceFacts:
    """How the goldens' outputs were computed, and how far other arithmetic of the same network is from them.

    arithmetic: "float64", "float32" or "integer". The numbers are None where they were not measured.
    """

    arithmetic: str
    float32_error: float | None
    float16_snr_db: float | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The typed form of manifest.json.

    preprocess and normalize_table are None where only tensors go in.
    """

    name: str
    model: ModelFacts
    target: str
    precision: Precision
    entry: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    normalize_table: bytes | None  # (channels, 256) float32, little-endian
    labels: tuple[str, ...]
    files: tuple[FileEntry, ...]
    goldens: tuple[Golden, ...]
    tolerance: Tolerance
    parity: Parity
    lowering: Lowering
    deploy: tuple[AppliedPass, ...]
    checks: dict[str, str]
    provenance: Provenance
    classifier: Classifier | None = None
    compression: str = ""  # of stored weights: "int8", "palette4"; "" for as many bits as are computed in
    dynamic_batch: bool = False  # the leading axis of inputs and outputs may have any length; their specs say 1
    accelerator: str = "cpu"  # where it runs by default
    executed: tuple[SettingsRun, ...] = ()  # under the settings of phones, where the target has any
    reference: ReferenceFacts | None = None
    runtime_min: Runtime | None = None  # the oldest that can open the file
    writer: str | None = None  # of the model file: "edgevit", "onnx2tf"; None is edgevit

    @property
    def entry_size_bytes(self) -> int:
        """Bytes of the model file, or of all files in the model package."""
        return sum(f.size_bytes for f in self.files if f.path == self.entry or f.path.startswith(self.entry + "/"))

    @property
    def image_preprocess(self) -> Preprocess:
        """How an image becomes the first input. Raises UsageError where only tensors go in."""
        if self.preprocess is None:
            raise UsageError(f"{self.name} takes tensors, not images", fix="run its session on tensors")
        return self.preprocess

    @property
    def input_size(self) -> int | None:
        """Pixels of each side of the image that goes in, None where only tensors do."""
        return None if self.preprocess is None else self.preprocess.crop[0]

    def to_json(self) -> dict[str, Any]:
        """The document as written; raises ContractError if it would break the contract."""
        body = fields_of(dataclasses.replace(self, normalize_table=None))
        del body["normalize_table"]
        if self.normalize_table is not None:
            body["preprocess"]["normalize_table"] = base64.b64encode(self.normalize_table).decode()
        for golden in body["goldens"]:
            if golden["geometry"] is None:
                del golden["geometry"]
        body |= {"parity": parity_to_json(self.parity), "provenance": self.provenance.to_json()}
        document = {"schema": "edgevit.manifest", "schema_version": VERSION, **body}
        _check(document, f"manifest of {self.name}")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any], where: str = "manifest") -> Manifest:
        """Rebuild the typed form; unknown keys are ignored. Raises ContractError, which names `where`."""
        _check(document, where)
        preprocess = document["preprocess"]
        return build(
            cls,
            document | {"normalize_table": preprocess and preprocess["normalize_table"]},
            model=lambda facts: build(ModelFacts, facts, task=Task),
            precision=Precision,
            inputs=items(_tensor),
            outputs=items(_tensor),
            preprocess=optional(preprocess_from_json),
            normalize_table=optional(base64.b64decode),
            labels=tuple,
            files=items(lambda entry: build(FileEntry, entry)),
            goldens=items(lambda golden: build(Golden, {"geometry": None, **golden})),
            tolerance=lambda bounds: build(Tolerance, bounds),
            parity=parity_from_json,
            lowering=lambda facts: build(Lowering, facts),
            deploy=items(applied_pass_from_json),
            provenance=Provenance.from_json,
            classifier=optional(lambda names: build(Classifier, names)),
            executed=items(_settings_run),
            reference=optional(lambda facts: build(ReferenceFacts, facts)),
            runtime_min=optional(lambda runtime: build(Runtime, runtime)),
        )

    def write(self, folder: Path) -> None:
        """Write manifest.json into the artifact folder: the last file, so its presence means that all are there."""
        write_json(folder / FILE_NAME, self.to_json())


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact folder's manifest. Raises ContractError."""
    path = folder / FILE_NAME
    return Manifest.from_json(read_document(path, "manifest"), str(path))


def _check(document: dict[str, Any], where: str) -> None:
    """Check the schema, and that the parts of a manifest agree. Raises ContractError."""
    validate(document, "manifest", where)
    for place, message in _contradictions(document):
        raise broken("manifest", where, place, message)


def _contradictions(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Places that contradict the rest of the document, and why."""
    model, preprocess = document["model"], document["preprocess"]
    if (model["task"] == Task.TENSOR) != (model["num_classes"] is None):
        yield "model/num_classes", "it is null where the task is tensor, and nowhere else"
    if document["labels"] and len(document["labels"]) != model["num_classes"]:
        yield "labels", f"{len(document['labels'])} labels for {model['num_classes']} classes"
    for kind in ("inputs", "outputs", "goldens"):
        names = [one["name"] for one in document[kind]]
        if len(set(names)) < len(names):
            yield kind, "two of them have one name"
    if preprocess is not None:
        channels = len(preprocess["mean"])
        if channels == 2 or len(preprocess["std"]) != channels:
            yield "preprocess/mean", "mean and std have one number per channel, 1 or 3"
        try:
            table = base64.b64decode(preprocess["normalize_table"], validate=True)
        except ValueError:
            table = b""
        if len(table) != channels * _TABLE_BYTES:
            yield "preprocess/normalize_table", f"it is not {channels} x 256 float32"
        if max(preprocess["crop"]) > preprocess["resize"]:
            yield "preprocess/crop", "it is larger than the resized short side"
    elif any(tensor["color"] for tensor in document["inputs"]):
        yield "preprocess", "an image goes in, so it cannot be null"
    yield from _file_contradictions(document)


def _file_contradictions(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    paths = [entry["path"] for entry in document["files"]]
    known = set(paths)
    if len(known) < len(paths):
        yield "files", "a path stands there twice"
    for path in paths:
        if path == FILE_NAME or path.rpartition("/")[2] in LITTER:
            yield "files", f"{path} is never listed"
    entry = document["entry"]
    if entry not in known and not any(path.startswith(f"{entry}/") for path in paths):
        yield "entry", f"{entry} is none of the files, nor a folder of them"
    needed = {level_name("L2", i) for i in range(len(document["inputs"]))}
    needed |= {level_name("L3", i) for i in range(len(document["outputs"]))}
    image = {"L0", "L1"}
    for number, golden in enumerate(document["goldens"]):
        place, levels = f"goldens/{number}", golden["levels"]
        if document["preprocess"] is None and ("geometry" in golden or image & levels.keys()):
            yield place, "without preprocess there is no L0, L1 or geometry"
        if document["preprocess"] is not None and "geometry" not in golden:
            yield place, "geometry is missing"
        wanted = needed if document["preprocess"] is None else needed | image
        if missing := sorted(wanted - levels.keys()):
            yield f"{place}/levels", f"{missing[0]} is missing"
        for name, level in levels.items():
            if level["file"] not in known:
                yield f"{place}/levels/{name}", f"{level['file']} is none of the files"


def level_name(name: str, index: int) -> str:
    """The golden level of one input or output: L2 of the first, L2_1 of the second."""
    return f"{name}_{index}" if index else name


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """A ModelSpec without its code."""
    return {f.name: plain(getattr(spec, f.name)) for f in dataclasses.fields(spec) if f.name != "build"}


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
    """An AppliedPass from its JSON form."""
    graph = optional(lambda facts: build(GraphFacts, facts))
    return build(AppliedPass, document, places=tuple, before=graph, after=graph)


def _settings_run(document: dict[str, Any]) -> SettingsRun:
    return build(SettingsRun, document, runtime=lambda runtime: build(Runtime, runtime), outcome=Outcome)


def _tensor(document: dict[str, Any]) -> TensorSpec:
    return build(TensorSpec, document, shape=tuple, layout=Layout)
