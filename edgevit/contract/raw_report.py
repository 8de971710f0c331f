"""report.json: what one process measured while it ran one job. Raw numbers only; statistics are `profiling`'s.

Its fields are documented in schemas/report.schema.json; Report.kt and Report.swift use the same names.
Not measured is null, never 0.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.contract.job import Job
from edgevit.contract.schema import read_document, validate

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 1


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
    """A physical machine, as far as it tells. cores are logical ones."""

    name: str
    os: str
    os_version: str | None
    cpu: str | None
    cores: int | None
    arch: str | None
    memory_bytes: int | None
    python_version: str | None


@dataclass(frozen=True, slots=True)
class Runtime:
    """Library that ran the model."""

    name: str
    version: str | None


@dataclass(frozen=True, slots=True)
class AskedUsed:
    """What the job asked for, and what the runtime says it used (null if it does not say)."""

    asked: str | int
    used: str | int | None


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A reading before the model was loaded and after the last run."""

    before: float | None = None
    after: float | None = None


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

    max_relative_error is max|a-b| / max|b|; snr_db is also null when the outputs are equal to the bit;
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
    """The typed form of report.json."""

    token: str
    job: Job
    harness: str
    pid: int | None
    started_utc: str
    device: DeviceInfo
    runtime: Runtime
    accelerator: AskedUsed
    threads: AskedUsed
    load_ns: int
    first_ns: int
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    memory: Memory
    thermal: BeforeAfter
    load_average: BeforeAfter
    delegation: Delegation
    parity: OutputParity
    outputs: tuple[RecordedTensor, ...] | None
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document as written, `complete` last; raises ContractError if it would break the schema."""
        document = {"schema": "edgevit.report", "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        document["job"] = self.job.to_json()
        document["memory"]["peak_above_imports_bytes"] = self.memory.peak_above_imports_bytes
        for key in ("warmup_ns", "samples_ns", "flags"):
            document[key] = list(document[key])
        if self.outputs is not None:
            document["outputs"] = [_tensor_to_json(tensor) for tensor in self.outputs]
        document["complete"] = True
        validate(document, "report", f"report {self.token}")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RawReport:
        """Rebuild the typed form; unknown keys are ignored. Raises ContractError, also for an incomplete report."""
        validate(document, "report", "report")
        take = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        outputs = document["outputs"]
        typed = {
            "job": Job.from_json(document["job"]),
            "device": _build(DeviceInfo, document["device"]),
            "runtime": _build(Runtime, document["runtime"]),
            "accelerator": _build(AskedUsed, document["accelerator"]),
            "threads": _build(AskedUsed, document["threads"]),
            "warmup_ns": tuple(document["warmup_ns"]),
            "samples_ns": tuple(document["samples_ns"]),
            "memory": _build(Memory, document["memory"]),
            "thermal": _build(BeforeAfter, document["thermal"]),
            "load_average": _build(BeforeAfter, document["load_average"]),
            "delegation": _build(Delegation, document["delegation"]),
            "parity": _build(OutputParity, document["parity"]),
            "outputs": None if outputs is None else tuple(_tensor_from_json(tensor) for tensor in outputs),
            "flags": tuple(document["flags"]),
        }
        return cls(**take | typed)


def read_report(path: Path) -> RawReport:
    """Read a report file. Raises ContractError if it is missing, cut off or against its schema."""
    return RawReport.from_json(read_document(path, "report"))


def _tensor_to_json(tensor: RecordedTensor) -> dict[str, Any]:
    data = base64.b64encode(tensor.data).decode()
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "data_base64": data}


def _tensor_from_json(document: dict[str, Any]) -> RecordedTensor:
    data = base64.b64decode(document["data_base64"])
    return RecordedTensor(document["name"], tuple(document["shape"]), document["dtype"], data)


def _build(cls: type, document: dict[str, Any]) -> Any:
    return cls(**{field.name: document[field.name] for field in dataclasses.fields(cls)})
