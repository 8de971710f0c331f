"""`edgevit qat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import (
    AsJson,
    Data,
    Devices,
    Epochs,
    LearningRate,
    Logs,
    MaxDrop,
    Resume,
    Samples,
    TrainingThreads,
    print_checkpoint,
)


def qat(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`, or file.py:factory.", show_default=False)],
    weights: Annotated[
        Path, typer.Option("--weights", help="Float checkpoint, or an int8 one to go on from.", show_default=False)
    ],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Int8 checkpoint to write.", show_default=False)],
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    samples: Samples = 256,
    threads: TrainingThreads = None,
    devices: Devices = 1,
    logs: Logs = None,
    resume: Resume = False,
    max_drop: MaxDrop = None,
    as_json: AsJson = False,
) -> None:
    """Train with NNCF's quantizers by the recipe `qat`; `convert --precision int8` takes the result."""
    from edgevit.log import is_first_process

    result = edgevit.qat(
        model,
        weights=weights,
        data=data,
        out=out,
        epochs=epochs,
        learning_rate=learning_rate,
        samples=samples,
        threads=threads,
        devices=devices,
        logs=logs,
        resume=resume,
        max_drop=max_drop,
    )
    if is_first_process():
        print_checkpoint(result, as_json=as_json)
