"""`edgevit debug`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import (
    ArtifactPath,
    AsJson,
    ModelFile,
    ResultsFolder,
    Split,
    print_json,
    print_table,
)


def debug(
    artifact: ArtifactPath,
    weights: Annotated[
        Path, typer.Option("--weights", help="The checkpoint that the artifact was made from.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help='"digits", "photos", "tiles" or a folder; default: its goldens.', show_default=False
        ),
    ] = None,
    model: ModelFile = None,
    split: Split = "test",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Images of the data to compare on.")] = 16,
    reference: Annotated[
        str,
        typer.Option(
            "--reference", help="Network to compare with: checkpoint, the one converted; of int8 also float, before it."
        ),
    ] = "checkpoint",
    top: Annotated[int, typer.Option("--top", min=1, help="Layers to print; the result holds all.")] = 20,
    out: ResultsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Rank an artifact's layers by local error: a layer's output against the reference operation's on the same inputs.

    The accumulated error includes what came before the layer. LSB mismatch: the share of int8 values that are another
    than the nearest. With --reference float it shows which layers int8 costs most in.
    """
    from edgevit.verification.numeric_debugger import HEADER, KIND_HEADER, kind_row, row

    report = edgevit.debug(
        artifact, weights=weights, data=data, model=model, split=split, samples=samples, reference=reference, out=out
    )
    if as_json:
        print_json(report.to_json())
        return
    print_table(HEADER, [row(error) for error in report.layers[:top]])
    print()
    print_table(KIND_HEADER, [kind_row(kind) for kind in report.kinds()])
    print(report.summary())
