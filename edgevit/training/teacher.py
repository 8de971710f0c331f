"""Opens the network that another one learns from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.checkpoints.model_source import load_model
from edgevit.errors import UsageError
from edgevit.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def open_teacher(model: str, weights: str | Path, spec: ModelSpec, labels: tuple[str, ...]) -> nn.Module:
    """A trained network with the same inputs and outputs as spec's: its module in training form.

    model: a name of `edgevit list` or "file.py:factory"; its int8 checkpoints teach by their float network.
    Raises UsageError for another task, other labels, another normalisation of the images, or a size it cannot take.
    """
    source = load_model(
        model, weights=weights, num_classes=spec.num_classes, input_size=spec.input_size, float_part=True
    )
    theirs, name = source.spec, f"teacher {source.spec.name}"
    if theirs.task is not spec.task:
        raise UsageError(f"{name} is there to {theirs.task}, {spec.name} to {spec.task}", fix="give one of its task")
    if theirs.num_classes != spec.num_classes or (source.labels and source.labels != labels):
        raise UsageError(
            f"{name} has {theirs.num_classes} classes, which are not the {len(labels)} of the data",
            fix="give a teacher that was trained on the same classes in the same order",
        )
    if (theirs.preprocess.mean, theirs.preprocess.std) != (spec.preprocess.mean, spec.preprocess.std):
        raise UsageError(f"{name} sees images with another mean or std", fix="give one with the same normalisation")
    return source.module
