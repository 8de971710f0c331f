"""raw_report.json: what one process measured while it ran one job. Raw numbers only; statistics are `profiling`'s.

Its fields are documented in schemas/raw_report.schema.json; RawReport.kt and RawReport.swift use the same names.
Not measured is null, never 0.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgevit.contract.job import Job
from edgevit.contract.plain_data import build, fields_of, items, optional
from edgevit.contract.schema import VERSION, broken, read_document, validate

if TYPE_CHECKING:
    import numpy as np

FILE_NAME = "raw_report.json"
T = TypeVar("T")


class Flag(StrEnum):
    """Why a report's numbers need care. Phones add their own; a report without flags is a valid measurement."""

    WARMUP_CUT = "max_s reached before warm-up was done"
    RUNS_CUT = "max_s reached before runs"
    LOADED = "load average above cores"
    OTHER_ACCELERATOR = "accelerator differs from the one asked for"
    OTHER_THREADS = "threads differ from those asked for"
    WRONG_OUTPUT = "output out of tolerance"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A physical machine, as far as it reports. cores are logical ones."""

    name: str
    os: str
    os_version: str | None
    cpu: str | None
    cores: int | None
    arch: str | None
    memory_bytes: int | None
    python_version: str | None
    manufacturer: str | None = None
    soc: str | None = None
    os_build: str | None = None
    page_size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class App:
    """The app that measured."""

    version: str | None
    commit: str | None
    debuggable: bool | None


@dataclass(frozen=True, slots=True)
class Runtime:
    """Library that ran the model."""

    name: str
    version: str | None


@dataclass(frozen=True, slots=True)
class AskedUsed(Generic[T]):
    """What the job asked for, and what the runtime reports it used (null if it does not)."""

    asked: T
    used: T | None


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A reading before the model was loaded and after the last run."""

    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Thermal:
    """The platform's thermal state; series: (nanoseconds after the first timed run, state then)."""

    before: float | None = None
    after: float | None = None
    series: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class BatteryState:
    """What the system reports of its battery."""

    level_percent: float | None
    temperature_c: float | None
    charging: bool | None


@dataclass(frozen=True, slots=True)
class Battery:
    """The battery before the model was loaded and after the last run."""

    before: BatteryState | None
    after: BatteryState | None


@dataclass(frozen=True, slots=True)
class Stages:
    """Nanoseconds of each stage of each timed run."""

    preprocess_ns: tuple[int, ...]
    inference_ns: tuple[int, ...]
    postprocess_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Instructions:
    """Instructions of one inference, all and those of the kernels' kinds."""

    all: int | None
    dot: int | None
    i8mm: int | None
    fmla: int | None
    smlal: int | None


@dataclass(frozen=True, slots=True)
class Operation:
    """Time of one operation; module: of the network, where the runtime reports it."""

    name: str
    module: str | None
    ns: int | None
    delegated: bool | None


class Phase(StrEnum):
    """Where a measurement was when it ended early."""

    PUSH = "push"
    LOAD = "load"
    FIRST = "first"
    WARMUP = "warmup"
    SAMPLES = "samples"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a report is not complete."""

    phase: Phase
    message: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the process; the baseline is its peak once the runtime's libraries were imported."""

    baseline_bytes: int | None
    peak_bytes: int | None

    @property
    def peak_above_imports_bytes(self) -> int | None:
        """What the model itself added, which is what two artifacts of one runtime are compared by."""
        if self.baseline_bytes is None or self.peak_bytes is None:
            return None
        return self.peak_bytes - self.baseline_bytes


@dataclass(frozen=True, slots=True)
class Delegation:
    """`delegated` of `nodes` operations ran inside a delegate, in `regions` pieces."""

    delegated: int | None
    nodes: int | None
    regions: int | None


@dataclass(frozen=True, slots=True)
class OutputParity:
    """Agreement of this process's output with the golden's; errors are null when the output is not finite.

    max_relative_error is max|a-b| / max|b|; snr_db is also null when the outputs are bit-exact;
    within_tolerance is null when the output is finite and the manifest states no bound.
    """

    golden: str
    max_relative_error: float | None
    snr_db: float | None
    within_tolerance: bool | None


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """An output as the runtime gave it: little-endian bytes in C order."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: bytes

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> RecordedTensor:
        """Copy an array of any shape."""
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        return cls(name, array.shape, array.dtype.name, little.tobytes())

    def array(self) -> np.ndarray:
        """The tensor again, read-only, in its shape."""
        import numpy as np

        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class RawReport:
    """The typed form of raw_report.json.

    functional: the machine was emulated, so its times mean nothing. The cached times are of a load that finds what the
    runtime keeps between processes. failure: why it ended early, then what was not reached is None or empty; None in a
    complete report. parity None: nothing was compared, and no latency may be shown.
    """

    token: str
    job: Job
    harness: str
    pid: int | None
    started_utc: str
    device: DeviceInfo
    runtime: Runtime
    accelerator: AskedUsed[str]
    threads: AskedUsed[int]
    load_ns: int | None
    first_ns: int | None
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    memory: Memory
    thermal: Thermal
    load_average: BeforeAfter
    delegation: Delegation
    parity: OutputParity | None
    outputs: tuple[RecordedTensor, ...] | None
    flags: tuple[str, ...]
    functional: bool = False
    app: App | None = None
    cached_load_ns: int | None = None
    cached_first_ns: int | None = None
    sample_start_ns: tuple[int, ...] | None = None
    stages: Stages | None = None
    battery: Battery | None = None
    frequency_khz: BeforeAfter | None = None
    instructions: Instructions | None = None
    ops: tuple[Operation, ...] | None = None
    failure: Failure | None = None

    @property
    def complete(self) -> bool:
        """Whether everything that the job asked for was measured."""
        return self.failure is None

    @property
    def why_no_latency(self) -> str:
        """Why no time of this report may be shown, "" if its times may be."""
        if self.functional:
            return "the machine was emulated"
        if self.load_ns is None or self.first_ns is None or not self.samples_ns:
            return f"{self.failure.phase} failed: {self.failure.message}" if self.failure else "nothing was timed"
        return "its outputs were not compared" if self.parity is None else ""

    def to_json(self) -> dict[str, Any]:
        """The document as written, `complete` last; raises ContractError if it would break the schema."""
        body = fields_of(dataclasses.replace(self, outputs=None)) | {"job": self.job.to_json()}
        body["memory"]["peak_above_imports_bytes"] = self.memory.peak_above_imports_bytes
        if self.outputs is not None:
            body["outputs"] = [_tensor_to_json(tensor) for tensor in self.outputs]
        document = {"schema": "edgevit.raw_report", "schema_version": VERSION, **body, "complete": self.complete}
        _check(document, f"raw report {self.token}")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any], where: str = "raw report") -> RawReport:
        """Rebuild the typed form; unknown keys are ignored. Raises ContractError, which names `where`."""
        _check(document, where)
        return build(
            cls,
            document,
            job=lambda job: Job.from_json(job, f"{where}: job"),
            device=_part(DeviceInfo),
            app=optional(_part(App)),
            runtime=_part(Runtime),
            accelerator=_part(AskedUsed),
            threads=_part(AskedUsed),
            warmup_ns=tuple,
            samples_ns=tuple,
            sample_start_ns=optional(tuple),
            stages=optional(lambda stages: Stages(*(tuple(stages[name]) for name in _names(Stages)))),
            memory=_part(Memory),
            thermal=lambda thermal: build(Thermal, thermal, series=optional(items(tuple))),
            battery=optional(lambda ends: build(Battery, ends, before=_BATTERY, after=_BATTERY)),
            frequency_khz=optional(_part(BeforeAfter)),
            load_average=_part(BeforeAfter),
            delegation=_part(Delegation),
            instructions=optional(_part(Instructions)),
            ops=optional(items(_part(Operation))),
            parity=optional(_part(OutputParity)),
            outputs=optional(items(_tensor_from_json)),
            flags=tuple,
            failure=optional(lambda failure: build(Failure, failure, phase=Phase)),
        )


def read_raw_report(path: Path) -> RawReport:
    """Read a raw report. Raises ContractError if it is missing, cut off or against its schema."""
    return RawReport.from_json(read_document(path, "raw_report"), str(path))


def _check(document: dict[str, Any], where: str) -> None:
    """Check the schema, and that the parts of a report agree. Raises ContractError."""
    validate(document, "raw_report", where)
    job = document["job"]
    if job.get("token") != document["token"]:
        raise broken("raw_report", where, "token", "it is not that of the job in the report")
    runs = len(document["samples_ns"])
    per_run = {"sample_start_ns": document.get("sample_start_ns")}
    per_run |= {f"stages/{name}": values for name, values in (document.get("stages") or {}).items()}
    for place, values in per_run.items():
        if isinstance(values, list) and len(values) != runs:
            raise broken("raw_report", where, place, f"{len(values)} numbers for {runs} samples")
    for number, tensor in enumerate(document["outputs"] or ()):
        size_bytes = math.prod(tensor["shape"]) * _ITEM_BYTES[tensor["dtype"]]
        try:
            data = base64.b64decode(tensor["data_base64"], validate=True)
        except ValueError:
            data = None
        if data is None or len(data) != size_bytes:
            message = f"it is not {size_bytes} bytes, as shape and dtype say"
            raise broken("raw_report", where, f"outputs/{number}/data_base64", message)


_ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}


def _part(cls: type[T]) -> Callable[[dict[str, Any]], T]:
    return lambda document: build(cls, document)


_BATTERY = optional(_part(BatteryState))


def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _tensor_to_json(tensor: RecordedTensor) -> dict[str, Any]:
    data = base64.b64encode(tensor.data).decode()
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "data_base64": data}


def _tensor_from_json(document: dict[str, Any]) -> RecordedTensor:
    data = base64.b64decode(document["data_base64"])
    return RecordedTensor(document["name"], tuple(document["shape"]), document["dtype"], data)
