"""job.json: one request to load one artifact and time it. Phones, boards and this host read the same file.

Its fields are documented in schemas/job.schema.json; Job.kt and Job.swift use the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.contract.plain_data import build, fields_of
from edgevit.contract.schema import VERSION, broken, read_document, validate
from edgevit.errors import UsageError, unknown_name

ACCELERATORS = ("cpu", "gpu", "npu", "ane", "cuda", "all")


@dataclass(frozen=True, slots=True)
class TimingSettings:
    """How long to measure. A phase ends when it has enough runs and enough seconds, or at max_s.

    The defaults are the quick setting of our benchmarking rules; runs=1024 with min_s=60 is the full one. max_s holds
    for the warm-up and for the timed runs, each. sustain_s: back-to-back runs for so long instead of min_s, to see what
    heat does. Raises UsageError for values that cannot be met.
    """

    warmup_runs: int = 10
    warmup_s: float = 1.0
    runs: int = 50
    min_s: float = 5.0
    max_s: float = 150.0
    sustain_s: float | None = None

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise UsageError(f"{self.runs} runs", fix="it must be at least 1")
        if min(self.warmup_runs, self.warmup_s, self.min_s) < 0:
            raise UsageError("a job cannot warm up or run for less than nothing", fix="use 0 to leave a phase out")
        longest_s = max(self.warmup_s, self.min_s)
        if self.max_s <= 0 or self.max_s < longest_s:
            raise UsageError(
                f"max_s {self.max_s:g} cuts off the {longest_s:g} s that were asked for",
                fix="raise max_s, or lower warmup_s and min_s",
            )


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, where and for how long. Raises UsageError for values that cannot be met."""

    token: str  # chosen by the sender, echoed by the report: proves that the report is of this very job
    artifact: str  # folder name, never a path of one machine
    artifact_sha256: str  # of its manifest.json
    accelerator: str = "cpu"
    threads: int = 1
    input: str | None = None  # golden fed to the model, null for the artifact's first
    timing: TimingSettings = TimingSettings()
    record_outputs: bool = False
    batch: int = 1  # copies of the input fed at once
    measure_stages: bool = False  # from the golden's image on, the stages timed apart
    per_op: bool = False  # list the time of each operation

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise unknown_name("accelerator", self.accelerator, ACCELERATORS)
        if min(self.threads, self.batch) < 1:
            raise UsageError(f"{self.threads} threads, batch {self.batch}", fix="each must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """The document as written, timing among the other fields; ContractError if it would break the schema."""
        fields = fields_of(self)
        document = {"schema": "edgevit.job", "schema_version": VERSION, **fields, **fields["timing"]}
        del document["timing"]
        validate(document, "job", f"job {self.token}")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any], where: str = "job") -> Job:
        """Rebuild the typed form; unknown keys are ignored. Raises ContractError, which names `where`."""
        validate(document, "job", where)
        try:
            return build(cls, document | {"timing": build(TimingSettings, document)})
        except UsageError as error:
            raise broken("job", where, "top level", error.message) from error


def read_job(path: Path) -> Job:
    """Read a job file. Raises ContractError."""
    return Job.from_json(read_document(path, "job"), str(path))
