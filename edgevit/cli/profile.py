"""`edgevit profile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgevit
from edgevit.cli.options import (
    Accelerator,
    ArtifactPaths,
    AsJson,
    ResultsFolder,
    Threads,
    print_json,
    table_lines,
)

if TYPE_CHECKING:
    from edgevit.contract.raw_report import Delegation, OutputParity
    from edgevit.profiling.latency import Comparison, LatencyReport

_TIMES = ("load ms", "first ms", "p50 ms", "p90 ms", "p99 ms")
_HEADER = ("artifact", "batch", *_TIMES, "images/s", "memory MiB", "delegated", "parity")


def profile(
    artifacts: ArtifactPaths,
    compare: Annotated[
        bool, typer.Option("--compare", help="Time two artifacts in turns and give the ratio with its interval.")
    ] = False,
    threads: Threads = 1,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs",
            min=1,
            help="Least timed runs per process; default: 50, with --compare 15.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="With --compare: fresh processes per artifact.")] = 10,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="Images per inference, for server targets; may repeat.", show_default="1"),
    ] = None,
    accelerator: Accelerator = None,
    device: Annotated[str, typer.Option("--device", help='Machine to run on: "host", or SCHEME:ADDRESS.')] = "host",
    out: ResultsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency, memory and parity of artifacts, each in a fresh process."""
    sizes = list(dict.fromkeys(batch or [1]))
    if compare:
        _require_pair(artifacts, sizes)
        comparison = edgevit.compare(
            *artifacts,
            device=device,
            accelerator=accelerator,
            threads=threads,
            batch=sizes[0],
            rounds=rounds,
            runs=runs,
            out=out,
        )
        if as_json:
            print_json(comparison.to_json())
        else:
            print(describe_comparison(comparison))
        return
    reports = [
        edgevit.profile(
            artifact, device=device, accelerator=accelerator, threads=threads, batch=size, runs=runs, out=out
        )
        for artifact in artifacts
        for size in sizes
    ]
    if as_json:
        from edgevit.contract.schema import VERSION

        profiles = [report.to_json() for report in reports]
        print_json({"schema": "edgevit.profiles", "schema_version": VERSION, "profiles": profiles})
    else:
        print(profile_table(reports))


def _require_pair(artifacts: Sequence[Path], sizes: Sequence[int]) -> None:
    from edgevit.errors import UsageError

    if len(artifacts) != 2:
        raise UsageError(f"--compare takes two artifacts, not {len(artifacts)}", fix="name both folders")
    if len(sizes) != 1:
        raise UsageError(f"--compare takes one --batch, not {len(sizes)}", fix="compare once for each")


def profile_table(reports: list[LatencyReport]) -> str:
    """One aligned row per report, then its flags; null shows as "-"."""
    rows = [
        (
            report.artifact,
            str(report.batch),
            *(f"{ms:.2f}" for ms in (report.load_ms, report.first_ms, report.p50_ms, report.p90_ms, report.p99_ms)),
            f"{report.images_per_s:.1f}",
            "-" if report.peak_memory_bytes is None else f"{report.peak_memory_bytes / 2**20:.1f}",
            _delegated(report.raw.delegation),
            _parity(report.raw.parity),
        )
        for report in reports
    ]
    notes = [f"{report.artifact}: {flag}" for report in reports for flag in report.flags]
    return "\n".join([*table_lines(_HEADER, rows), *notes])


def describe_comparison(comparison: Comparison) -> str:
    """Both medians, the verdict, and the flags."""
    rows = [
        (comparison.a, f"{comparison.a_p50_ms:.2f}", f"{comparison.a_spread:.0%}"),
        (comparison.b, f"{comparison.b_p50_ms:.2f}", f"{comparison.b_spread:.0%}"),
    ]
    return "\n".join(
        [*table_lines(("artifact", "p50 ms", "round spread"), rows), comparison.verdict, *comparison.flags]
    )


def _delegated(delegation: Delegation) -> str:
    if delegation.delegated is None or delegation.nodes is None:
        return "-"
    return f"{delegation.delegated}/{delegation.nodes}"


def _parity(parity: OutputParity | None) -> str:
    """ "ok 8.9e-07"; "differs" out of tolerance; "unjudged" if the manifest states no bound; "-" if not compared."""
    if parity is None:
        return "-"
    word = {True: "ok", False: "differs", None: "unjudged"}[parity.within_tolerance]
    return word if parity.max_relative_error is None else f"{word} {parity.max_relative_error:.1e}"
