"""`edgevit predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import Accelerator, ArtifactPath, AsJson, Threads, print_json, print_table


def predict(
    artifact: ArtifactPath,
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG, ... files.", show_default=False)],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show.")] = 5,
    accelerator: Accelerator = None,
    threads: Threads = 1,
    out: Annotated[Path, typer.Option("--out", help="Folder for masks and overlays.")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """Top classes with probabilities; for segmentation a mask PNG and an overlay."""
    results = edgevit.predict(artifact, images, top=top, accelerator=accelerator, threads=threads, out=out)
    if as_json:
        print_json([result.to_json() for result in results])
        return
    for result in results:
        print(result.image)
        print_table(*result.table())
