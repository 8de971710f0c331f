"""`edgevit train`."""

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
    Resume,
    TrainingThreads,
    Weights,
    print_json,
)
from edgevit.errors import UsageError


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
    import dataclasses

    from edgevit.checkpoints.model_source import open_spec
    from edgevit.data.corrupt_images import readable
    from edgevit.data.datasets import open_dataset
    from edgevit.data.metrics import describe_scores
    from edgevit.log import is_first_process, stage
    from edgevit.training.recipe import adjusted
    from edgevit.training.recipe_file import open_recipe
    from edgevit.training.teacher import open_teacher
    from edgevit.training.trainer import train as train_model

    if (teacher is None) != (teacher_weights is None):
        raise UsageError("--teacher and --teacher-weights belong together", fix="give both, or neither")
    chosen = adjusted(open_recipe(recipe), epochs, learning_rate)
    train_set, test_set = (readable(open_dataset(data, split)) for split in ("train", "test"))
    spec = open_spec(model, len(train_set.labels), input_size)
    network = None if teacher is None else open_teacher(teacher, teacher_weights, spec, train_set.labels)
    with stage("train", model=model, data=data, recipe=recipe) as running:
        result = train_model(
            spec, train_set, test_set, chosen, out, weights=weights, teacher=network, threads=threads, devices=devices,
            amp=amp, logs=logs, resume=resume,
        )  # fmt: skip
        running.result = f"{describe_scores(result.curve[-1].scores)} on {len(test_set)} held-out images"
    if not is_first_process():
        return
    if as_json:
        print_json(dataclasses.asdict(result) | {"checkpoint": str(result.checkpoint)})
    else:
        print(result.checkpoint)
