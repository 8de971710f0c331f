"""`edgevit qat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import (
    AsJson,
    Data,
    Devices,
    Epochs,
    LearningRate,
    Logs,
    MaxDrop,
    Resume,
    TrainingThreads,
    print_json,
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
    threads: TrainingThreads = None,
    devices: Devices = 1,
    logs: Logs = None,
    resume: Resume = False,
    max_drop: MaxDrop = None,
    as_json: AsJson = False,
) -> None:
    """Train with int8 grids (NNCF quantizers) by the recipe `qat`; `convert --precision int8` takes the result."""
    import dataclasses

    from edgevit.log import is_first_process
    from edgevit.quantization.qat import qat as train_int8

    result = train_int8(
        model,
        weights=weights,
        data=data,
        out=out,
        epochs=epochs,
        learning_rate=learning_rate,
        threads=threads,
        devices=devices,
        logs=logs,
        resume=resume,
        max_drop=max_drop,
    )
    if not is_first_process():
        return
    if as_json:
        print_json(dataclasses.asdict(result) | {"checkpoint": str(result.checkpoint)})
    else:
        print(result.checkpoint)
