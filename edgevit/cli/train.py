"""`edgevit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import AsJson, Data, Resume, TrainingThreads, Weights, print_json


def train(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`.", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write.", show_default=False)],
    recipe: Annotated[str, typer.Option("--recipe", help="How to train: digits, photos or tiles.")] = "digits",
    input_size: Annotated[
        int | None,
        typer.Option("--input-size", help="Pixels of each side; default: the model's own.", show_default=False),
    ] = None,
    weights: Weights = None,
    threads: TrainingThreads = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a model and write its checkpoint, which knows its labels, size and preprocessing."""
    import dataclasses

    from edgevit.data.imageset import open_imageset
    from edgevit.log import stage
    from edgevit.models import get_spec
    from edgevit.scoring import describe_scores
    from edgevit.training.recipe import get_recipe
    from edgevit.training.trainer import train as train_model

    chosen = get_recipe(recipe)
    train_set, test_set = (open_imageset(data, split) for split in ("train", "test"))
    spec = get_spec(model).for_task(len(train_set.labels), input_size)
    with stage("train", model=model, data=data, recipe=recipe) as running:
        result = train_model(spec, train_set, test_set, chosen, out, weights=weights, threads=threads, resume=resume)
        running.result = f"{describe_scores(result.curve[-1].scores)} on {len(test_set)} held-out pictures"
    if as_json:
        print_json(dataclasses.asdict(result) | {"checkpoint": str(result.checkpoint)})
    else:
        print(result.checkpoint)
