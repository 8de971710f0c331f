"""`edgevit debug`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import ArtifactPath, AsJson, print_json, print_table


def debug(
    artifact: ArtifactPath,
    weights: Annotated[
        Path, typer.Option("--weights", help="The checkpoint that the artifact was made from.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help='"digits", "photos" or a folder; default: its goldens.', show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="file.py:factory of a model of your own.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Part of the data: test or train.")] = "test",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Images of the data to compare on.")] = 16,
    reference: Annotated[
        str,
        typer.Option(
            "--reference", help="Network to compare with: checkpoint, the one converted; of int8 also float, before it."
        ),
    ] = "checkpoint",
    top: Annotated[int, typer.Option("--top", min=1, help="Layers to print; the result holds all.")] = 20,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the result; default: results/ beside the artifact.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare an artifact with its checkpoint layer by layer; those that add most error come first.

    "new" is what a layer does differently with the values that it gets, "so far" what it inherits too. Steps: the share
    of values that lie on another step of their int8 grid. Against the float network it shows where int8 costs most.
    """
    from edgevit.verification.numeric_debugger import HEADER, KIND_HEADER, kind_row, row
    from edgevit.verification.numeric_debugger import debug as debug_artifact

    report = debug_artifact(
        artifact, weights=weights, data=data, model=model, split=split, samples=samples, reference=reference, out=out
    )
    if as_json:
        print_json(report.to_json())
        return
    print_table(HEADER, [row(error) for error in report.layers[:top]])
    print()
    print_table(KIND_HEADER, [kind_row(kind) for kind in report.kinds()])
    print(report.summary())
