"""`edgevit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import Accelerator, AsJson, Data, Threads, Weights, print_json, print_table


def evaluate(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.", show_default=False)],
    data: Data,
    weights: Weights = None,
    model: Annotated[
        str | None, typer.Option("--model", help="file.py:factory of a model of your own.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Part of the data: test or train.")] = "test",
    accelerator: Accelerator = None,
    threads: Threads = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results; default: results/ beside the artifact.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score artifacts on labelled images, and with --weights their checkpoint on the same ones."""
    from edgevit.verification import error_breakdown
    from edgevit.verification.evaluation import evaluate as evaluate_artifacts
    from edgevit.verification.evaluation import header, row

    results = evaluate_artifacts(
        artifacts,
        data=data,
        weights=weights,
        model=model,
        split=split,
        accelerator=accelerator,
        threads=threads,
        out=out,
    )
    if as_json:
        print_json([result.to_json() for result in results])
    else:
        print_table(header(results), [row(result) for result in results])
        for result in (result for result in results if result.drift):
            print(f"\n{result.artifact}, each step against the one before:")
            print_table(error_breakdown.header(result.drift), [error_breakdown.row(step) for step in result.drift])
