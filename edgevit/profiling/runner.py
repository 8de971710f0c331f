"""Runs one job in its own process: `python -m edgevit.profiling.runner job.json raw_report.json --artifacts FOLDER`.

The same program serves this host and any board with Python. It loads one artifact, times it, compares its
output with the golden's, and writes the report whole or not at all. One process per job: peak memory only
ever rises, and the second model of a process finds warm pools and caches.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgevit.artifacts.artifact import Artifact, load_artifact, model_layout
from edgevit.contract.job import Job, read_job
from edgevit.contract.raw_report import (
    AskedUsed,
    BeforeAfter,
    Delegation,
    Flag,
    Memory,
    OutputParity,
    RawReport,
    RecordedTensor,
    Runtime,
    Thermal,
)
from edgevit.data.layout import to_layout
from edgevit.errors import ContractError, EdgevitError
from edgevit.infra.files import write_json
from edgevit.infra.optional_imports import require
from edgevit.profiling.devices.host_facts import describe_host, load_average, peak_memory_bytes
from edgevit.targets.base import INTERPRETER, NotExecutable
from edgevit.targets.registry import get_converter

if TYPE_CHECKING:
    from edgevit.contract.manifest import Golden
    from edgevit.targets.base import Converter

HARNESS = "cli"

Clock = Callable[[], int]  # nanoseconds, never going back
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Facts of one session and how long it took, nanoseconds in order; outputs of the first inference."""

    runtime: str
    accelerator: str
    threads: int | None
    load_ns: int
    first_ns: int
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    outputs: Arrays
    flags: tuple[Flag, ...]


def execute(job: Job, artifact: Artifact, converter: Converter, *, clock: Clock = time.perf_counter_ns) -> RawReport:
    """Do one job in this process, which should have run no model before.

    Raises ContractError if the artifact is not the one that the job names, UsageError for a batch that it does not
    take, MissingDependency if its runtime is not installed, NotExecutable if there is none for this machine,
    DeviceError if it fails.
    """
    if artifact.manifest_sha256 != job.artifact_sha256:
        raise ContractError(f"{artifact.name} has changed since the job was written", fix="start it again")
    artifact.require_batch(job.batch)
    manifest, golden = artifact.manifest, artifact.golden(job.input)
    # Copies, because views of a file's bytes are read-only and some sessions would copy them in every run.
    inputs = {name: np.repeat(array, job.batch, axis=0) for name, array in artifact.golden_input(golden.name).items()}
    device = describe_host()
    for module in converter.runtime_modules:  # before the baseline: they are the runtime's memory, not the model's
        require(module, converter.extra)

    started, load_before, baseline_bytes = _utc_now(), load_average(), peak_memory_bytes()
    measured = measure(converter, artifact, job, inputs, clock)
    peak_bytes, load_after = peak_memory_bytes(), load_average()

    parity = output_parity(artifact, golden, measured.outputs, measured.runtime, job.batch)
    flags = list(measured.flags)
    if device.cores is not None and max(load_before or 0.0, load_after or 0.0) > device.cores:
        flags.append(Flag.LOADED)
    if parity.within_tolerance is False:
        flags.append(Flag.WRONG_OUTPUT)
    name, _, version = measured.runtime.partition(" ")
    return RawReport(
        token=job.token,
        job=job,
        harness=HARNESS,
        pid=os.getpid(),
        started_utc=started,
        device=device,
        runtime=Runtime(name, version or None),
        accelerator=AskedUsed(job.accelerator, measured.accelerator),
        threads=AskedUsed(job.threads, measured.threads),
        load_ns=measured.load_ns,
        first_ns=measured.first_ns,
        warmup_ns=measured.warmup_ns,
        samples_ns=measured.samples_ns,
        memory=Memory(baseline_bytes, peak_bytes),
        thermal=Thermal(),  # no sensor here has a scale that shows when a machine throttles
        load_average=BeforeAfter(load_before, load_after),
        delegation=Delegation(manifest.lowering.delegated, manifest.lowering.nodes, manifest.lowering.regions),
        parity=parity,
        outputs=_recorded(measured.outputs) if job.record_outputs else None,
        flags=tuple(flags),
    )


def measure(converter: Converter, artifact: Artifact, job: Job, inputs: Arrays, clock: Clock) -> Measurement:
    """Load, first inference, warm-up, timed runs: the phases of one process, each timed apart."""
    timing, start_ns = job.timing, clock()
    session = converter.open(artifact.path, artifact.manifest, job.accelerator, job.threads)
    load_ns = clock() - start_ns
    if session.accelerator == INTERPRETER:
        session.close()
        raise NotExecutable("a reference interpreter's time says nothing about a device", fix="profile on a device")
    with contextlib.closing(session), _no_collection():
        start_ns = clock()
        outputs = session.run(inputs)
        first_ns = clock() - start_ns
        warmup_ns = take_samples(session, inputs, timing.warmup_runs, timing.warmup_s, timing.max_s, clock)
        samples_ns = take_samples(session, inputs, timing.runs, timing.min_s, timing.max_s, clock)
        threads = session.threads
        found = {
            Flag.WARMUP_CUT: len(warmup_ns) < timing.warmup_runs,
            Flag.RUNS_CUT: len(samples_ns) < timing.runs,
            Flag.OTHER_ACCELERATOR: session.accelerator != job.accelerator,
            Flag.OTHER_THREADS: threads not in (None, job.threads),
        }
        return Measurement(
            runtime=session.runtime,
            accelerator=session.accelerator,
            threads=threads,
            load_ns=load_ns,
            first_ns=first_ns,
            warmup_ns=tuple(warmup_ns),
            samples_ns=tuple(samples_ns),
            outputs=outputs,
            flags=tuple(flag for flag, raised in found.items() if raised),
        )


class Runs(Protocol):
    """What can be timed: a Session, or a program that a benchmark compares one with."""

    def run(self, inputs: Arrays) -> Any:
        """One inference."""


def take_samples(
    session: Runs, inputs: Arrays, least_runs: int, least_s: float, max_s: float, clock: Clock
) -> list[int]:
    """Nanoseconds of each inference, until there were enough runs and enough seconds, or max_s are over."""
    samples: list[int] = []
    began_ns = now_ns = clock()
    while (len(samples) < least_runs or now_ns - began_ns < least_s * 1e9) and now_ns - began_ns < max_s * 1e9:
        start_ns = clock()
        session.run(inputs)
        now_ns = clock()
        samples.append(now_ns - start_ns)
    return samples


def output_parity(artifact: Artifact, golden: Golden, outputs: Arrays, runtime: str, batch: int = 1) -> OutputParity:
    """Error of the output against the golden's, and whether it keeps to the manifest's bounds.

    Each image of the batch is compared and the worst one counts. A wrong shape or values that are not finite fail
    whatever the bounds.
    """
    from edgevit.verification.checks import (
        measure as measure_parity,  # brings image libraries: after the memory was read
    )

    manifest, result = artifact.manifest, artifact.manifest.outputs[0]
    got, wanted = outputs[result.name], np.repeat(artifact.golden_level(golden, "L3"), batch, axis=0)
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return OutputParity(golden.name, None, None, within_tolerance=False)
    got, wanted = (to_layout(array, result.layout, model_layout(result)) for array in (got, wanted))
    parity = measure_parity(got, wanted, task=manifest.model.task, runtime=runtime)
    bound = manifest.tolerance  # the latency is reported in any case
    within = None if bound.bounds_nothing else not bound.missed_by(parity.max_relative_error, parity.snr_db)
    return OutputParity(golden.name, parity.max_relative_error, parity.snr_db, within)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples: its pauses are the harness's, not the runtime's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _recorded(outputs: Arrays) -> tuple[RecordedTensor, ...]:
    return tuple(RecordedTensor.of(name, array) for name, array in outputs.items())


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the module; an error is one line on stderr, the last, and its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgevit.profiling.runner", description="Run one job, write one raw report."
    )
    parser.add_argument("job", type=Path, help="job.json to read")
    parser.add_argument("report", type=Path, help="raw_report.json to write, whole or not at all")
    parser.add_argument("--artifacts", type=Path, default=Path(), help="folder that holds the job's artifact")
    options = parser.parse_args(argv)
    try:
        job = read_job(options.job)
        artifact = load_artifact(options.artifacts / job.artifact)
        report = execute(job, artifact, get_converter(artifact.manifest.target))
        write_json(options.report, report.to_json())
    except EdgevitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
