"""`edgevit prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import AsJson, Data, Epochs, LearningRate, Resume, TrainingThreads, print_checkpoint


def prune(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`, or file.py:factory.", show_default=False)],
    weights: Annotated[Path, typer.Option("--weights", help="Float checkpoint to start from.", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Pruned float checkpoint to write.", show_default=False)],
    sparsity: Annotated[float, typer.Option("--sparsity", help="Share of the weights to set to zero.")] = 0.5,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    threads: TrainingThreads = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Set single weights to zero and train the others (NNCF magnitude pruning) by the recipe `prune`."""
    result = edgevit.prune(
        model,
        weights=weights,
        data=data,
        out=out,
        sparsity=sparsity,
        epochs=epochs,
        learning_rate=learning_rate,
        threads=threads,
        resume=resume,
    )
    print_checkpoint(result, as_json=as_json)
