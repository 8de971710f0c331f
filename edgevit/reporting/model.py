"""The content of a report, as plain data: report.json is exactly these classes, and every page is made from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edgevit.contract.schema import VERSION

SCHEMA = "edgevit.report"


class Status(StrEnum):
    """What may be said about an artifact's outputs; AGREES alone is about the artifact's own runtime."""

    AGREES = "agrees"  # ran, and met every bound its manifest states
    REFERENCE = "agrees in the reference interpreter"  # evaluated, and met every bound; its own runtime is elsewhere
    DIFFERS = "differs"  # ran, and broke a bound
    UNJUDGED = "no bound stated"  # ran, but its manifest states no bound
    NOT_EXECUTED = "not executed"  # no runtime for the format on that machine
    NOT_VERIFIED = "not verified"  # no result for this build of the artifact


class NoteKind(StrEnum):
    """Why something in the folder is not, or not fully, in the report."""

    STALE = "stale"  # measured another build of the artifact, or one that is gone
    UNREADABLE = "unreadable"
    BROKEN = "broken"  # an artifact whose files are not those its manifest lists
    WITHHELD = "withheld"  # a latency without an accuracy for the same build
    MISSING = "missing"  # a stage of the pipeline that has no result yet


@dataclass(frozen=True, slots=True)
class Source:
    """The file a row was read from, relative to the reported folder, and the hash of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Parity with the checkpoint, field by field as measured, and what the manifest's bounds make of it."""

    status: Status
    runtime: str = ""
    samples: int = 0
    max_abs_error: float | None = None
    max_relative_error: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    reason: str = ""
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The task metric of float network, checkpoint and artifact on the same labelled samples, as fractions.

    The checkpoint of an int8 artifact is its int8 network; the drop is from the float network, as trained.
    """

    data: str
    split: str
    samples: int
    metric: str
    float_network: float | None
    checkpoint: float | None
    artifact: float | None
    agreement: float | None
    source: Source
    drop_percentage_points: float | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """One profile run of one artifact: percentiles of its warm samples, and where and how it ran.

    A time is one inference of `batch` images. accelerator and threads are those the runtime reports, null if it
    reports none. parity is that of the golden which was fed. flags are the reasons to doubt the numbers.
    """

    artifact_sha256: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    std_ms: float | None
    first_ms: float
    load_ms: float
    batch: int
    images_per_s: float
    peak_memory_bytes: int | None
    samples_ns: tuple[int, ...]
    device: dict[str, Any]
    harness: str
    runtime: str
    accelerator: str | None
    threads: int | None
    delegation: dict[str, int | None]
    parity: dict[str, Any]
    flags: tuple[str, ...]
    started_utc: str
    source: Source


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two artifacts timed in turns: ratio is a's time over b's, with its interval; below 1 means that a is faster."""

    a: str
    b: str
    a_sha256: str
    b_sha256: str
    a_p50_ms: float
    b_p50_ms: float
    ratio: float
    low: float
    high: float
    confidence: float
    verdict: str
    flags: tuple[str, ...]
    rounds: int
    batch: int
    source: Source


@dataclass(frozen=True, slots=True)
class ErrorBreakdown:
    """One stage of an artifact's error breakdown, against the stage before; null where there is none, or no label."""

    name: str
    metric: str
    score: float | None
    agreement: float | None
    snr_db: float | None
    cosine: float | None
    max_abs_error: float | None


@dataclass(frozen=True, slots=True)
class WorstLayer:
    """A layer that adds error of its own, as `edgevit debug` ranked it: its local error, and the accumulated one.

    reference: the network that it was compared with, "checkpoint" or "float".
    """

    reference: str
    place: str
    node: str
    operation: str
    local_snr_db: float | None
    accumulated_snr_db: float | None
    lsb_mismatch: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """How the checkpoint behind an artifact came to be, epoch by epoch."""

    file: str
    sha256: str
    facts: dict[str, Any]
    curve: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """One artifact and all that was measured of this very build (manifest_sha256)."""

    name: str
    folder: str
    manifest_sha256: str
    model: dict[str, Any]
    target: str
    precision: str  # "fp16, weights int8" where stored weights are compressed
    entry: str
    size_bytes: int
    files: tuple[dict[str, Any], ...]
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    preprocess: dict[str, Any] | None
    tolerance: dict[str, Any]
    lowering: dict[str, Any]
    deploy: tuple[dict[str, Any], ...]
    checks: dict[str, str]
    provenance: dict[str, Any]
    training: Training | None
    agreement: Agreement
    accuracy: Accuracy | None
    latencies: tuple[Latency, ...]
    error_breakdown: tuple[ErrorBreakdown, ...] = ()
    worst_layers: tuple[WorstLayer, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """One thing the reader should know before trusting or missing a number."""

    kind: NoteKind
    subject: str  # the file or artifact it is about
    message: str


@dataclass(frozen=True, slots=True)
class NextCommand:
    """A command worth running next, and what it would add."""

    command: str
    why: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything a report shows."""

    title: str
    generated_utc: str
    verdict: str
    artifacts: tuple[ArtifactRow, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[Note, ...]
    next_commands: tuple[NextCommand, ...]

    def to_json(self) -> dict[str, Any]:
        """The document of report.json."""
        return {"schema": SCHEMA, "schema_version": VERSION, **dataclasses.asdict(self)}
