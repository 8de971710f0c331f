"""`edgevit convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import AsJson, Weights, print_json, print_table


def convert(
    model: Annotated[
        str, typer.Argument(help="Name from `edgevit list`, or path/to/file.py:factory.", show_default=False)
    ],
    target: Annotated[
        list[str],
        typer.Option("--target", "-t", help="executorch, coreml, tflite or all; may repeat.", show_default=False),
    ],
    weights: Weights = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or fp16.")] = "fp32",
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact folders.")] = Path("artifacts"),
    classes: Annotated[
        int | None,
        typer.Option("--classes", help="Classes of your task; a checkpoint of ours knows.", show_default=False),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option("--input-size", help="Pixels of each side.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Text file, one label a line.", show_default=False)
    ] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option("--golden", help="Picture to store as a golden input; may repeat.", show_default=False),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-O", help="Converter option KEY=VALUE or TARGET.KEY=VALUE; may repeat.", show_default=False),
    ] = None,
    replace_head: Annotated[
        bool, typer.Option("--replace-head", help="Keep a fresh classifier where the class counts differ.")
    ] = False,
    no_deploy: Annotated[
        bool, typer.Option("--no-deploy", help="Convert the plain graph, without exact rewrites.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for each target; one that takes longer fails alone.")
    ] = 1800,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Convert even what was converted before, and keep nothing of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into verified artifacts, one folder OUT/MODEL-PRECISION-TARGET per target.

    The same input, converted by the same code and tools, is taken from a cache: ~/.cache/edgevit (or XDG_CACHE_HOME,
    or EDGEVIT_CACHE), at most 5 GB (EDGEVIT_CACHE_GB).
    """
    from edgevit.pipeline import convert as convert_model
    from edgevit.sources import read_labels

    artifacts = convert_model(
        model,
        target=target,
        precision=precision,
        out=out,
        weights=weights,
        num_classes=classes,
        input_size=input_size,
        labels=() if labels is None else read_labels(labels),
        replace_head=replace_head,
        options=parse_options(option or []),
        goldens=golden or [],
        plain=no_deploy,
        timeout_s=timeout,
        cache=not no_cache,
    )
    if as_json:
        print_json([{"path": str(a.path), **a.manifest.to_json()} for a in artifacts])
        return
    print_table(("artifact", "MB", "parity with the checkpoint"), [_row(artifact) for artifact in artifacts])


def parse_options(assignments: list[str]) -> dict[str, str]:
    """KEY=VALUE strings to a mapping. UsageError for anything else."""
    from edgevit.errors import UsageError

    options = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not (key and equals):
            raise UsageError(f"-O {assignment!r} is no option", hint="write -O KEY=VALUE")
        options[key] = value
    return options


def _row(artifact: object) -> tuple[str, str, str]:
    from edgevit.verification import describe_parity

    manifest = artifact.manifest
    return str(artifact.path), f"{manifest.entry_size_bytes / 1e6:.1f}", describe_parity(manifest.parity)
