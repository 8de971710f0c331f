"""`edgevit predict`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

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
    from edgevit.artifacts.artifact import load_artifact
    from edgevit.artifacts.prediction import classify_image, segment_image
    from edgevit.spec import Task

    opened = load_artifact(artifact)
    session = opened.open(accelerator, threads)
    documents = []
    for image in images:
        if opened.manifest.model.task is Task.SEGMENT:
            output = segment_image(opened, image, out, session=session)
        else:
            output = classify_image(opened, image, session=session, top=top)
        documents.append({"image": str(image), **dataclasses.asdict(output)})
        if not as_json:
            print(f"{image}")
            print_table(*output.table())
    session.close()
    if as_json:
        print_json(documents)
