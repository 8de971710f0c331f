"""`edgevit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import AsJson, Threads, Weights, print_json


def verify(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option("--data", help='"digits", or a folder with one subfolder per class.', show_default=False),
    ] = None,
    weights: Weights = None,
    model: Annotated[
        str | None, typer.Option("--model", help="file.py:factory of a model of your own.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Part of the data: test or train.")] = "test",
    threads: Threads = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results; default: results/ beside the artifact.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check files, format and preprocessing, run the artifact, compare it with its checkpoint.

    With --data it also scores the artifact on labelled pictures; with --weights the checkpoint on the same ones.
    """
    from edgevit.artifact import load_artifact
    from edgevit.data.imageset import open_imageset
    from edgevit.log import stage
    from edgevit.storage import write_json
    from edgevit.verification import check_parity, examine, open_reference

    opened = [load_artifact(path) for path in artifacts]
    pictures = None if data is None else open_imageset(data, split)
    reference = None if weights is None else open_reference(opened, weights, model)
    documents = []
    for artifact in opened:
        with stage("verify", artifact=artifact.name) as running:
            result = examine(artifact, data=pictures, split=split, reference=reference, threads=threads)
            running.result = result.summary()
        path = (out or artifact.path.parent / "results") / f"{artifact.name}.verify.json"
        write_json(path, result.to_json())
        documents.append(result.to_json())
        check_parity(result.parity, artifact.manifest.tolerance, artifact.name)  # after writing: a miss is a result too
        if not as_json:
            print(f"{artifact.name}: {result.summary()}")
    if as_json:
        print_json(documents)
