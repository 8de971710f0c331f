"""edgevit profile: time artifacts on a device, or two against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.options import Accelerator, AsJson, print_json, table_lines

if TYPE_CHECKING:
    from edgevit.contract.raw_report import Delegation, OutputParity
    from edgevit.profiling.latency import Comparison, LatencyReport

RESULTS_FOLDER = "results"

_TIMES = ("load ms", "first ms", "p50 ms", "p90 ms", "p99 ms")
_HEADER = ("artifact", "batch", *_TIMES, "images/s", "memory MiB", "delegated", "parity")


def profile(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders that `edgevit convert` wrote.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Time two artifacts in turns and give the ratio with its interval.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime.")] = 1,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Least timed runs per process [default: 50, with --compare 15].")
    ] = None,
    rounds: Annotated[int, typer.Option(help="With --compare: fresh processes per artifact.")] = 10,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images per inference, for server targets; may repeat.", show_default="1"),
    ] = None,
    accelerator: Accelerator = None,
    device: Annotated[str, typer.Option(help='Machine to run on: "host", or SCHEME:ADDRESS.')] = "host",
    out: Annotated[
        Path | None, typer.Option(help='Folder for the results [default: "results" beside the artifact].')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency, memory and parity of artifacts, each in a fresh process."""
    from edgevit.artifacts.artifact import load_artifact
    from edgevit.errors import UsageError
    from edgevit.profiling import latency

    if compare and len(artifacts) != 2:
        raise UsageError(f"--compare takes two artifacts, not {len(artifacts)}", fix="name both folders")
    sizes = list(dict.fromkeys(batch or [1]))
    if compare and len(sizes) != 1:
        raise UsageError(f"--compare takes one --batch, not {len(sizes)}", fix="compare once for each")
    opened = [load_artifact(path) for path in artifacts]
    folders = [out or artifact.path.resolve().parent / RESULTS_FOLDER for artifact in opened]
    common = {"device": device, "accelerator": accelerator, "threads": threads}
    if compare:
        comparison = latency.compare(*opened, rounds=rounds, runs=runs or 15, batch=sizes[0], **common)
        latency.save_comparison(comparison, folders[0])
        if as_json:
            print_json(comparison.to_json())
        else:
            print(describe_comparison(comparison))
        return
    reports = []
    for artifact, folder in zip(opened, folders, strict=True):
        for size in sizes:
            reports.append(latency.profile(artifact, runs=runs or 50, batch=size, **common))
            latency.save_profile(reports[-1], folder)
    if as_json:
        print_json({"schema": "edgevit.profiles", "profiles": [report.to_json() for report in reports]})
    else:
        print(profile_table(reports))


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


def _parity(parity: OutputParity) -> str:
    """ "ok 8.9e-07"; "differs" out of tolerance; "unjudged" if the manifest states no bound."""
    word = {True: "ok", False: "differs", None: "unjudged"}[parity.within_tolerance]
    return word if parity.max_relative_error is None else f"{word} {parity.max_relative_error:.1e}"
