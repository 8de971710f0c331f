"""`edgevit convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgevit
from edgevit.cli.options import (
    AsJson,
    Classes,
    InputSize,
    Weights,
    print_executed,
    print_json,
    print_table,
    table_lines,
)

if TYPE_CHECKING:
    from edgevit.contract.manifest import AppliedPass, Manifest

_PLACES_SHOWN = 3  # the manifest has them all


def convert(
    model: Annotated[
        str, typer.Argument(help="Name from `edgevit list`, or path/to/file.py:factory.", show_default=False)
    ],
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            "-t",
            help="A target of `edgevit list`, or all: those of phones, or of servers by the model's tier; may repeat.",
            show_default=False,
        ),
    ],
    weights: Weights = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, fp16, bf16, or int8 from an int8 checkpoint.")
    ] = "fp32",
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact folders.")] = Path("artifacts"),
    classes: Classes = None,
    input_size: InputSize = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Text file, one label a line.", show_default=False)
    ] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option("--golden", help="Image to store as a golden input; may repeat.", show_default=False),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-O",
            help="Option KEY=VALUE or TARGET.KEY=VALUE, listed on the page of each target; may repeat.",
            show_default=False,
        ),
    ] = None,
    replace_head: Annotated[
        bool, typer.Option("--replace-head", help="Keep a fresh classifier where the class counts differ.")
    ] = False,
    no_deploy: Annotated[
        bool, typer.Option("--no-deploy", help="Convert the graph as it was trained, without the deploy passes.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for each target; one that takes longer fails alone.")
    ] = 1800,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Convert even what was converted before, and keep nothing of it.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which deploy passes were applied, where, and what they changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into verified artifacts, one folder OUT/MODEL-PRECISION-TARGET per target.

    The same input, converted by the same code and tools, is taken from a cache: ~/.cache/edgevit (or XDG_CACHE_HOME,
    or EDGEVIT_CACHE), at most 5 GB (EDGEVIT_CACHE_GB).
    """
    made = edgevit.convert(
        model,
        target=target,
        precision=precision,
        out=out,
        weights=weights,
        num_classes=classes,
        input_size=input_size,
        labels=labels or (),
        replace_head=replace_head,
        options=parse_options(option or []),
        goldens=golden or [],
        deploy=not no_deploy,
        timeout_s=timeout,
        cache=not no_cache,
    )
    artifacts = made if isinstance(made, list) else [made]
    for artifact in artifacts:
        print_executed(artifact.name, artifact.manifest.executed, aside=True)
    if as_json:
        print_json([{"path": str(a.path), **a.manifest.to_json()} for a in artifacts])
        return
    print_table(("artifact", "MB", "parity with the checkpoint"), [_row(artifact) for artifact in artifacts])
    if explain:
        print("\n".join(explanation([artifact.manifest for artifact in artifacts])))


def parse_options(assignments: list[str]) -> dict[str, str]:
    """KEY=VALUE strings to a mapping. UsageError for anything else."""
    from edgevit.errors import UsageError

    options = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not (key and equals):
            raise UsageError(f"-O {assignment!r} is no option", fix="write -O KEY=VALUE")
        options[key] = value
    return options


def explanation(manifests: Sequence[Manifest]) -> list[str]:
    """Lines on the passes behind some artifacts, once for targets that share them, and on what each target made."""
    lines: list[str] = []
    groups: dict[tuple[AppliedPass, ...], list[Manifest]] = {}
    for manifest in manifests:
        groups.setdefault(manifest.deploy, []).append(manifest)
    for applied, group in groups.items():
        lines += ["", f"rewritten for {', '.join(manifest.target for manifest in group)}:"]
        rows = [_pass_row(one) for one in applied]
        header = ("pass", "places", "operations", "million MACs", "depthwise taps", "transposes", "probe", "where")
        lines += table_lines(header, rows) if rows else ["nothing"]
    lines.append("")
    for manifest in manifests:
        lowering = manifest.lowering
        parts = [f"{lowering.nodes} operations"]
        if lowering.delegated is not None:
            parts.append(f"{lowering.delegated} delegated in {lowering.regions} region(s)")
        if lowering.transposes is not None:
            parts.append(f"{lowering.transposes} transpose(s)")
        parts += [f"{count} {name} outside" for name, count in lowering.outside.items()]
        lines.append(f"{manifest.target}: {', '.join(parts)}")
    return lines


def _pass_row(applied: AppliedPass) -> tuple[str, ...]:
    before, after = applied.before, applied.after
    numbers = [("", "")] * 4
    if before is not None and after is not None:
        numbers = [
            (str(before.operations), str(after.operations)),
            (f"{before.macs / 1e6:.1f}", f"{after.macs / 1e6:.1f}"),
            (str(before.depthwise_taps), str(after.depthwise_taps)),
            (str(before.transposes), str(after.transposes)),
        ]
    changes = [old if old == new else f"{old} -> {new}" for old, new in numbers]
    shown = ", ".join(applied.places[:_PLACES_SHOWN])
    more = f" and {len(applied.places) - _PLACES_SHOWN} more" if len(applied.places) > _PLACES_SHOWN else ""
    return (applied.name, str(applied.changes), *changes, f"{applied.probe_error:.0e}", shown + more)


def _row(artifact: edgevit.Artifact) -> tuple[str, str, str]:
    from edgevit.verification.checks import describe_parity

    manifest = artifact.manifest
    return (
        str(artifact.path),
        f"{manifest.entry_size_bytes / 1e6:.1f}",
        describe_parity(manifest.parity, manifest.compression),
    )
