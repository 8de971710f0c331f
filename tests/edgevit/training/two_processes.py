"""The training that `test_distributed` starts: `torchrun -m tests.edgevit.training.two_processes FOLDER`, or alone."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from edgevit.training.recipe import Augmentation, Recipe
from edgevit.training.trainer import train_network
from tests.edgevit.training.test_trainer import colours, toy_spec

RECIPE = Recipe(
    "two", epochs=2, batch_size=8, learning_rate=2e-2, gradient_clip=0.5, ema_decay=0.9, mixup_alpha=0.4,
    cutmix_alpha=1.0, freeze_norms=True,
    augmentation=Augmentation(0.1, 0.1, 10.0, crop_area=0.5, horizontal_flip=0.5, color_jitter=0.2),
)  # fmt: skip


def run(folder: Path) -> None:
    """Train, with 27 images that fill no whole number of batches, and 5 to score, which two cannot share evenly."""
    train_network(toy_spec(), colours(27), colours(5), RECIPE, folder / "toy.pt", threads=1, logs=folder / "logs")
    moving = dataclasses.replace(RECIPE, freeze_norms=False, epochs=1)
    train_network(toy_spec(), colours(27), colours(5), moving, folder / "moving.pt", threads=1)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
