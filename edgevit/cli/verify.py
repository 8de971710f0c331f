"""`edgevit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgevit
from edgevit.cli.options import (
    Accelerator,
    AsJson,
    ModelFile,
    ResultsFolder,
    Threads,
    Weights,
    print_executed,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from edgevit.verification.checks import Verification


def verify(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Artifact folders, or model files without a manifest.", show_default=False)
    ],
    interpreter: Annotated[
        bool, typer.Option("--interpreter", help="Also compare Core ML with the reference interpreter.")
    ] = False,
    weights: Weights = None,
    model: ModelFile = None,
    accelerator: Accelerator = None,
    threads: Threads = 1,
    out: ResultsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Check files, format and preprocessing, run the artifact, compare it with its checkpoint.

    The outputs of its checkpoint are stored in the artifact; `edgevit evaluate` scores it on labelled images. An
    ExecuTorch file is also run as phones' builds of its runtime do, each of their settings in turn; one that came
    without a manifest is held to itself. With --weights each form on the way from checkpoint to file runs, too, which
    shows stage by stage where outputs change; and int8 scales and zero points are compared with the checkpoint's.
    """
    documents = []
    for artifact in artifacts:
        result = edgevit.verify(
            artifact,
            interpreter=interpreter,
            weights=weights,
            model=model,
            accelerator=accelerator,
            threads=threads,
            out=out,
            strict=False,  # what was found is shown, right or wrong
        )
        if not as_json:
            _show(result)
        documents.append(result.to_json())
        result.require()
    if as_json:
        print_json(documents)


def _show(result: Verification) -> None:
    from edgevit.verification import error_breakdown

    print(f"{result.artifact}: {result.summary()}")
    if "qparams" in result.checks:
        print(f"quantization parameters: {result.checks['qparams']}")
    if result.error_breakdown:
        stages = result.error_breakdown
        print_table(error_breakdown.header(stages), [error_breakdown.row(one) for one in stages])
    print_executed(result.artifact, result.executed)
