"""`edgevit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import Accelerator, AsJson, Threads, Weights, print_json, print_table


def verify(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.", show_default=False)],
    interpreter: Annotated[
        bool, typer.Option("--interpreter", help="Also compare Core ML with the reference interpreter.")
    ] = False,
    weights: Weights = None,
    model: Annotated[
        str | None, typer.Option("--model", help="file.py:factory of a model of your own.", show_default=False)
    ] = None,
    accelerator: Accelerator = None,
    threads: Threads = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results; default: results/ beside the artifact.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check files, format and preprocessing, run the artifact, compare it with its checkpoint.

    What it should answer is stored beside it; `edgevit evaluate` scores it on labelled pictures. With --weights each
    form on the way from checkpoint to file answers too: what became of the answers, step by step. And int8 grids are
    read back from the file and compared with the checkpoint's.
    """
    from edgevit import drift
    from edgevit.artifact import load_artifact
    from edgevit.ladder import open_ladder
    from edgevit.log import stage
    from edgevit.quantization.inspection import inspect_scales, require_equal
    from edgevit.quantization.kinds import holds_grids
    from edgevit.storage import write_json
    from edgevit.verification import check_parity, examine

    documents = []
    for artifact in [load_artifact(path) for path in artifacts]:
        with stage("verify", artifact=artifact.name) as running:
            ladder = None if weights is None else open_ladder(artifact, weights, model)
            result = examine(artifact, accelerator=accelerator, threads=threads, interpreter=interpreter, ladder=ladder)
            running.result = result.summary()
        scales = None
        if weights is not None and holds_grids(artifact.manifest):
            scales = inspect_scales(artifact, against=weights, model=model)
            result.checks["scales"] = scales.summary()
        path = (out or artifact.path.parent / "results") / f"{artifact.name}.verify.json"
        write_json(path, result.to_json())
        documents.append(result.to_json())
        check_parity(result.parity, artifact.manifest.tolerance, artifact.name)  # after writing: a miss is a result too
        if scales is not None:
            require_equal(scales)
        if not as_json:
            print(f"{artifact.name}: {result.summary()}")
            if scales is not None:
                print(f"scales: {scales.summary()}")
            if result.drift:
                print_table(drift.header(result.drift), [drift.row(step) for step in result.drift])
    if as_json:
        print_json(documents)
