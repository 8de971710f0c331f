"""A process that is killed outright, and the run that goes on from what it left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.training.trainer import progress_of
from tests.edgevit.cli.test_main import run
from tests.edgevit.user_folder import write_images, write_network
from tests.tiny import SIZE, TinyClassifier

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
    write_network(folder, TinyClassifier, LABELS)
    (folder / "recipe.toml").write_text(RECIPE)
    write_images(folder, LABELS, train=18, test=4)
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
    _, logged = process.communicate()
    assert process.returncode == -signal.SIGKILL, logged
    assert not killed.exists()

    code, _, _ = run(capsys, *arguments, "--out", whole)
    assert code == 0
    code, _, logged = run(capsys, *arguments, "--out", killed, "--resume")
    assert code == 0
    assert f"epoch {EPOCHS}/{EPOCHS}" in logged
    assert f"epoch 1/{EPOCHS}" not in logged
    one, other = read_checkpoint(whole), read_checkpoint(killed)
    int8 = [{} if checkpoint.int8 is None else checkpoint.int8.tensors for checkpoint in (one, other)]
    for left, right in ((one.state_dict, other.state_dict), int8):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert bool(int8[0]) == (command == "qat")
    assert not progress_of(killed).exists()
