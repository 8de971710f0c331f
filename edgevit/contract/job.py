"""job.json: one request to load one artifact and time it. Phones, boards and this host read the same file.

Its fields are documented in schemas/job.schema.json; Job.kt and Job.swift use the same names.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.contract.schema import read_document, validate
from edgevit.errors import UsageError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What to run and for how long. A phase ends when it has enough runs and enough seconds, or at max_s.

    The defaults are the quick setting of our benchmarking rules. Raises UsageError for values that cannot be met.
    """

    token: str  # chosen by the sender, echoed by the report: proves that the report answers this very job
    artifact: str  # folder name, never a path of one machine
    artifact_sha256: str  # of its manifest.json
    accelerator: str = "cpu"
    threads: int = 1
    input: str | None = None  # golden fed to the model, null for the artifact's first
    warmup_runs: int = 10
    warmup_s: float = 1.0
    runs: int = 50
    min_s: float = 5.0
    max_s: float = 150.0  # of the warm-up and of the timed runs, each
    record_outputs: bool = False
    batch: int = 1  # copies of the input fed at once

    def __post_init__(self) -> None:
        if min(self.threads, self.runs, self.batch) < 1:
            found = f"{self.threads} threads, {self.runs} runs, batch {self.batch}"
            raise UsageError(found, fix="each must be at least 1")
        if min(self.warmup_runs, self.warmup_s, self.min_s) < 0:
            raise UsageError("a job cannot warm up or run for less than nothing", fix="use 0 to leave a phase out")
        if self.max_s <= 0 or self.max_s < max(self.warmup_s, self.min_s):
            raise UsageError(
                f"max_s {self.max_s:g} cuts off the {max(self.warmup_s, self.min_s):g} s that were asked for",
                fix="raise max_s, or lower warmup_s and min_s",
            )

    def to_json(self) -> dict[str, Any]:
        """The document as written; raises ContractError if it would break the schema."""
        document = {"schema": "edgevit.job", "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        validate(document, "job", f"job {self.token}")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Job:
        """Rebuild the typed form; unknown keys are ignored. Raises ContractError."""
        validate(document, "job", "job")
        return cls(**{f.name: document[f.name] for f in dataclasses.fields(cls) if f.name in document})


def read_job(path: Path) -> Job:
    """Read a job file. Raises ContractError."""
    return Job.from_json(read_document(path, "job"))
