"""What a user brings: a network in a file of his own, its float checkpoint, and labelled images in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import nn

from edgevit.checkpoints.checkpoint import save_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.spec import Preprocess
from tests.edgevit.training.test_trainer import colours
from tests.tiny import SIZE, seeded


def write_network(folder: Path, network: type[nn.Module], labels: tuple[str, ...]) -> None:
    """net.py with the factory `tiny` of a network of tests/tiny.py, and float.pt with weights of it."""
    (folder / "net.py").write_text(
        f"from tests.tiny import {network.__name__}\n"
        f"def tiny(num_classes={len(labels)}):\n"
        f"    return {network.__name__}(num_classes)\n"
    )
    metadata = CheckpointMetadata("tiny", len(labels), SIZE, labels, Preprocess.for_input(SIZE), "0")
    save_checkpoint(folder / "float.pt", seeded(network, num_classes=len(labels)), metadata)


def write_images(folder: Path, labels: Sequence[str], *, train: int, test: int) -> None:
    """data/ with both splits, each with a folder per class."""
    for split, count in (("train", train), ("test", test)):
        images = colours(count, labels=labels)
        for index, (pixels, target) in enumerate(zip(images.images, images.targets, strict=True)):
            path = folder / "data" / split / labels[target] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
