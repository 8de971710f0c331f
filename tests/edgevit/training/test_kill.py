"""A process that is killed outright, and the run that goes on from what it left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from edgevit.checkpoints.checkpoint import read_checkpoint, save_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.spec import Preprocess
from edgevit.training.trainer import progress_of
from tests.edgevit.cli.test_main import run
from tests.edgevit.training.test_trainer import colours
from tests.tiny import SIZE, TinyClassifier, seeded

EPOCHS = 12
LABELS = ("even", "odd")
RECIPE = f"""
epochs = {EPOCHS}
batch_size = 8
learning_rate = 0.01
gradient_clip = 1.0
ema_decay = 0.99
mixup_alpha = 0.2
cutmix_alpha = 1.0
[augmentation]
rotation_degrees = 10.0
crop_area = 0.5
horizontal_flip = 0.5
color_jitter = 0.3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """net.py with a network that has dropout, a float checkpoint of it, images and a recipe."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "net.py").write_text(
        "from tests.tiny import TinyClassifier\ndef tiny(num_classes=2):\n    return TinyClassifier(num_classes)\n"
    )
    (folder / "recipe.toml").write_text(RECIPE)
    metadata = CheckpointMetadata("tiny", 2, SIZE, LABELS, Preprocess.for_input(SIZE), "0")
    save_checkpoint(folder / "float.pt", seeded(TinyClassifier, num_classes=2), metadata)
    for split, count in (("train", 18), ("test", 4)):
        images = colours(count, labels=LABELS)
        for index, (pixels, target) in enumerate(zip(images.images, images.targets, strict=True)):
            path = folder / "data" / split / LABELS[target] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.parametrize("command", ["train", "qat", "prune"])
def test_killed_process_goes_on_to_the_same_weights(folder, capsys, command):
    how = ["--recipe", folder / "recipe.toml", "--input-size", SIZE] if command == "train" else ["--epochs", EPOCHS]
    how += ["--weights", folder / "float.pt", "--data", folder / "data", "--threads", 1]
    arguments = [command, f"{folder / 'net.py'}:tiny", *how]
    whole, killed = folder / f"{command}-whole.pt", folder / f"{command}-killed.pt"

    words = [str(word) for word in (*arguments, "--out", killed)]
    process = subprocess.Popen([sys.executable, "-m", "edgevit", *words], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not progress_of(killed).is_file():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, recorded = process.communicate()
    assert process.returncode == -signal.SIGKILL, recorded
    assert not killed.exists()

    code, _, _ = run(capsys, *arguments, "--out", whole)
    assert code == 0
    code, _, recorded = run(capsys, *arguments, "--out", killed, "--resume")
    assert code == 0
    assert f"epoch {EPOCHS}/{EPOCHS}" in recorded
    assert f"epoch 1/{EPOCHS}" not in recorded
    one, other = read_checkpoint(whole), read_checkpoint(killed)
    int8 = [{} if checkpoint.int8 is None else checkpoint.int8.tensors for checkpoint in (one, other)]
    for left, right in ((one.state_dict, other.state_dict), int8):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert bool(int8[0]) == (command == "qat")
    assert not progress_of(killed).exists()
