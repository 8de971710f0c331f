"""`edgevit train`."""

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
    Resume,
    TrainingThreads,
    Weights,
    print_checkpoint,
)


def train(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`, or file.py:factory.", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write.", show_default=False)],
    recipe: Annotated[
        str, typer.Option("--recipe", help="How to train: digits, photos, tiles, mobile, or a .toml file.")
    ] = "digits",
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    input_size: Annotated[
        int | None,
        typer.Option("--input-size", help="Pixels of each side; default: the model's own.", show_default=False),
    ] = None,
    weights: Weights = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Model to learn from: a name, or file.py:factory.", show_default=False),
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option("--teacher-weights", help="Checkpoint of the teacher.", show_default=False)
    ] = None,
    amp: Annotated[
        str | None, typer.Option("--amp", help="Mixed precision: bf16, or fp16 on GPUs.", show_default=False)
    ] = None,
    threads: TrainingThreads = None,
    devices: Devices = 1,
    logs: Logs = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a model and write its checkpoint, which knows its labels, size and preprocessing."""
    from edgevit.log import is_first_process

    result = edgevit.train(
        model,
        data=data,
        out=out,
        recipe=recipe,
        epochs=epochs,
        learning_rate=learning_rate,
        input_size=input_size,
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
        amp=amp,
        threads=threads,
        devices=devices,
        logs=logs,
        resume=resume,
    )
    if is_first_process():
        print_checkpoint(result, as_json=as_json)
