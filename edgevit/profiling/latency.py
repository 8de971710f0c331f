"""Latency of artifacts on a device: one profile, or two artifacts compared so that noise is not taken for a win."""

from __future__ import annotations

import dataclasses
import re
import secrets
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgevit.artifacts.artifact import opened, results_folder
from edgevit.contract.job import Job, TimingSettings
from edgevit.contract.schema import VERSION
from edgevit.errors import DeviceError, UsageError
from edgevit.infra.files import write_json
from edgevit.log import stage
from edgevit.profiling.latency_statistics import (
    CONFIDENCE,
    MIN_ROUNDS,
    Interval,
    bootstrap_ratio,
    median,
    percentile,
    spread,
    stability,
)
from edgevit.targets.registry import get_device

if TYPE_CHECKING:
    from edgevit.artifacts.artifact import Artifact
    from edgevit.contract.raw_report import RawReport
    from edgevit.profiling.devices.base import Device

MAX_SPREAD = 0.05  # our rule for publishing: parts of a measurement agree within 5 %
PARTIAL = "partial: the run ended early"
UNSTABLE = "unstable: the medians of its thirds differ by more than 5 %"

PAIRED = TimingSettings(runs=15, min_s=1.0)  # of each process of a comparison, which has many

# Beside warm-up and timed runs a job loads libraries, hashes files, and may be in a slow inference at max_s.
_OVERHEAD_S = 300.0

_NS_PER_MS = 1e6

Side = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Statistics of one raw report. Percentiles are those of `latency_statistics.percentile`.

    A time is one inference of a whole batch, milliseconds. device is its address: "host", "adb:SERIAL".

    std_ms is the sample standard deviation, null for a single run. peak_memory_bytes is the peak above the runtime's
    libraries. stability is `latency_statistics.stability` of the timed runs. A report with flags is not valid, and each
    flag gives a reason.
    """

    artifact: str
    device: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    std_ms: float | None
    load_ms: float
    first_ms: float
    load_first_ms: float
    peak_memory_bytes: int | None
    stability: float | None
    flags: tuple[str, ...]
    raw: RawReport

    @property
    def batch(self) -> int:
        """Images in one inference."""
        return self.raw.job.batch

    @property
    def images_per_s(self) -> float:
        """Throughput of back-to-back inferences, by their median."""
        return self.batch / (self.p50_ms / 1e3)

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against publishing these numbers."""
        return not self.flags

    def to_json(self) -> dict[str, Any]:
        """The document as saved, schema edgevit.profile; the raw report is embedded, `raw` last."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("flags", "raw")}
        return {
            "schema": "edgevit.profile",
            "schema_version": VERSION,
            "artifact_sha256": self.raw.job.artifact_sha256,
            **facts,
            "batch": self.batch,
            "images_per_s": self.images_per_s,
            "valid": self.valid,
            "flags": list(self.flags),
            "raw": self.raw.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Round:
    """One fresh process per artifact, `first` ("a" or "b") before the other."""

    first: Side
    a: RawReport
    b: RawReport


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two artifacts timed in turns. ratio.estimate is the median over rounds of (median of a / median of b).

    Below 1 means that a is faster. a_spread and b_spread are the spread of the round medians: what the machine
    did meanwhile, which the pairing takes out of the ratio.
    """

    a: str
    b: str
    a_p50_ms: float
    b_p50_ms: float
    a_spread: float
    b_spread: float
    ratio: Interval
    seed: int
    flags: tuple[str, ...]
    rounds: tuple[Round, ...]

    @property
    def verdict(self) -> str:
        """One sentence: the ratio with its interval, or that no difference was shown."""
        bounds = f"[{self.ratio.low:.3g}, {self.ratio.high:.3g}]"
        if self.ratio.includes(1.0):
            return f"no difference shown: {self.a} is {self.ratio.estimate:.3g}x of {self.b} {bounds}"
        return f"{self.a} is {self.ratio.estimate:.3g}x of {self.b} {bounds}"

    def to_json(self) -> dict[str, Any]:
        """The document as saved, schema edgevit.comparison; all raw reports are kept, `rounds` last."""
        first = self.rounds[0]
        return {
            "schema": "edgevit.comparison",
            "schema_version": VERSION,
            "a": self.a,
            "b": self.b,
            "a_sha256": first.a.job.artifact_sha256,
            "b_sha256": first.b.job.artifact_sha256,
            "a_p50_ms": self.a_p50_ms,
            "b_p50_ms": self.b_p50_ms,
            "a_spread": self.a_spread,
            "b_spread": self.b_spread,
            "ratio": self.ratio.estimate,
            "low": self.ratio.low,
            "high": self.ratio.high,
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "verdict": self.verdict,
            "valid": not self.flags,
            "flags": list(self.flags),
            "rounds": [{"first": r.first, "a": r.a.to_json(), "b": r.b.to_json()} for r in self.rounds],
        }


def profile(
    artifact: Artifact | str | Path,
    *,
    device: str = "host",
    accelerator: str | None = None,
    threads: int = 1,
    batch: int = 1,
    runs: int | None = None,
    golden: str | None = None,
    timing: TimingSettings = TimingSettings(),  # noqa: B008 - frozen
    timeout_s: float | None = None,
    out: str | Path | None = None,
) -> LatencyReport:
    """Time one artifact in a fresh process on a device, fed with a golden's input (default: the first).

    artifact: an Artifact or its folder. batch: so many copies of the input at once. runs: in place of those of timing.
    timeout_s None leaves room for both phases at timing.max_s. accelerator None is the one that the artifact was made
    for. The report is also written to `out`, by default results/ beside the artifact, see `save_profile`.
    Raises UsageError for a batch that the artifact does not take, DeviceError if the device fails, or has no runtime
    for the artifact's format, ContractError for a damaged artifact, StorageError.
    """
    one = opened(artifact)
    job = _job(one, accelerator, threads, batch, golden, _with_runs(timing, runs))
    with stage(
        "profile", artifact=one.name, device=device, accelerator=job.accelerator, threads=threads, batch=batch
    ) as running:
        report = summarize(_run(get_device(device), one, job, timeout_s), one.name, device)
        rate = f"{report.images_per_s:.1f} images/s"
        running.result = f"p50 {report.p50_ms:.2f} ms of {len(report.raw.samples_ns)} runs, {rate}"
    save_profile(report, results_folder(one.path, out))
    return report


def summarize(raw: RawReport, artifact: str, device: str = "host") -> LatencyReport:
    """The statistics of a raw report, wherever it was measured. Raises DeviceError if its times may not be shown."""
    load_ns, first_ns = _require_latency(raw, artifact)
    samples_ms = [ns / _NS_PER_MS for ns in raw.samples_ns]
    change = stability(samples_ms)
    unstable = (UNSTABLE,) if change is not None and change > MAX_SPREAD else ()
    partial = (PARTIAL,) if raw.failure is not None else ()
    return LatencyReport(
        artifact=artifact,
        device=device,
        p50_ms=median(samples_ms),
        p90_ms=percentile(samples_ms, 90),
        p99_ms=percentile(samples_ms, 99),
        min_ms=min(samples_ms),
        mean_ms=statistics.fmean(samples_ms),
        std_ms=statistics.stdev(samples_ms) if len(samples_ms) > 1 else None,
        load_ms=load_ns / _NS_PER_MS,
        first_ms=first_ns / _NS_PER_MS,
        load_first_ms=(load_ns + first_ns) / _NS_PER_MS,
        peak_memory_bytes=raw.memory.peak_above_imports_bytes,
        stability=change,
        flags=raw.flags + unstable + partial,
        raw=raw,
    )


def compare(
    a: Artifact | str | Path,
    b: Artifact | str | Path,
    *,
    device: str = "host",
    accelerator: str | None = None,
    threads: int = 1,
    batch: int = 1,
    rounds: int = 10,
    runs: int | None = None,
    golden: str | None = None,
    timing: TimingSettings = PAIRED,
    timeout_s: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Comparison:
    """Which of two artifacts is faster? A fresh process per round and artifact, their order flipped every round.

    a, b: Artifacts or their folders; the result is also written to `out`, by default results/ beside the first.
    What slows the machine for minutes hits both halves of a round, so the ratio within a round is steadier than
    either time, and flipping cancels what going first is worth. timing.min_s gives small models a window longer than
    the scheduler's fluctuations. seed draws the bootstrap, nothing else.
    Raises UsageError below 6 rounds, DeviceError as `profile` does.
    """
    if rounds < MIN_ROUNDS:
        raise UsageError(f"{rounds} rounds cannot give a 95 % interval", fix=f"use at least {MIN_ROUNDS}, better 10")

    machine = get_device(device)
    first, second = opened(a), opened(b)
    sides = {
        side: (one, _job(one, accelerator, threads, batch, golden, _with_runs(timing, runs)))
        for side, one in (("a", first), ("b", second))
    }
    done: list[Round] = []
    with stage("compare", a=first.name, b=second.name, device=device, rounds=rounds) as running:
        for number in range(rounds):
            order: tuple[Side, Side] = ("a", "b") if number % 2 == 0 else ("b", "a")
            reports = {side: _run(machine, *sides[side], timeout_s) for side in order}
            done.append(Round(order[0], reports["a"], reports["b"]))
        result = judge(done, first.name, second.name, seed=seed)
        running.result = result.verdict
    save_comparison(result, results_folder(first.path, out))
    return result


def judge(rounds: Iterable[Round], a: str, b: str, *, seed: int = 0) -> Comparison:
    """The comparison that recorded rounds make."""
    rounds = tuple(rounds)
    for report, name in (pair for r in rounds for pair in ((r.a, a), (r.b, b))):
        _require_latency(report, name)
    a_ms = [median(r.a.samples_ns) / _NS_PER_MS for r in rounds]
    b_ms = [median(r.b.samples_ns) / _NS_PER_MS for r in rounds]
    return Comparison(
        a=a,
        b=b,
        a_p50_ms=median(a_ms),
        b_p50_ms=median(b_ms),
        a_spread=spread(a_ms),
        b_spread=spread(b_ms),
        ratio=bootstrap_ratio([one / other for one, other in zip(a_ms, b_ms, strict=True)], seed=seed),
        seed=seed,
        flags=_count_flags(rounds),
        rounds=rounds,
    )


def save_profile(report: LatencyReport, folder: Path) -> Path:
    """Write ARTIFACT.DEVICE.ACCELERATOR.tTHREADS.profile.json into folder, whole or not at all; batch8 before profile.

    Raises StorageError.
    """
    job = report.raw.job
    device = re.sub(r"[^A-Za-z0-9_-]+", "-", report.device)  # its address has a colon, and may have dots and slashes
    parts = [report.artifact, device, job.accelerator, f"t{job.threads}"]
    parts += [f"batch{job.batch}"] if job.batch > 1 else []
    path = folder / f"{'.'.join(parts)}.profile.json"
    write_json(path, report.to_json())
    return path


def save_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write <a>--vs--<b>.compare.json into folder, whole or not at all. Raises StorageError."""
    size = comparison.rounds[0].a.job.batch
    batch = f".batch{size}" if size > 1 else ""
    path = folder / f"{comparison.a}--vs--{comparison.b}{batch}.compare.json"
    write_json(path, comparison.to_json())
    return path


def _with_runs(timing: TimingSettings, runs: int | None) -> TimingSettings:
    return timing if runs is None else dataclasses.replace(timing, runs=runs)


def _job(
    artifact: Artifact,
    accelerator: str | None,
    threads: int,
    batch: int,
    golden: str | None,
    timing: TimingSettings,
) -> Job:
    artifact.require_batch(batch)
    return Job(
        token=_token(),
        artifact=artifact.path.resolve().name,
        artifact_sha256=artifact.manifest_sha256,
        accelerator=accelerator or artifact.manifest.accelerator,
        threads=threads,
        input=golden,
        timing=timing,
        batch=batch,
    )


def _run(device: Device, artifact: Artifact, job: Job, timeout_s: float | None) -> RawReport:
    """One fresh process, under a token that no earlier report can carry."""
    limit_s = 2 * job.timing.max_s + _OVERHEAD_S if timeout_s is None else timeout_s
    return device.run(artifact, dataclasses.replace(job, token=_token()), limit_s)


def _require_latency(raw: RawReport, artifact: str) -> tuple[int, int]:
    """Load and first inference of a report whose times may be shown, DeviceError for another."""
    if raw.why_no_latency or raw.load_ns is None or raw.first_ns is None:
        raise DeviceError(f"{artifact} has no latency to show: {raw.why_no_latency}", fix="measure again")
    return raw.load_ns, raw.first_ns


def _token() -> str:
    return secrets.token_hex(8)


def _count_flags(rounds: tuple[Round, ...]) -> tuple[str, ...]:
    """Each flag with how many of the processes raised it."""
    counts = Counter(flag for r in rounds for report in (r.a, r.b) for flag in report.flags)
    return tuple(f"{flag} ({count} of {2 * len(rounds)} processes)" for flag, count in sorted(counts.items()))
