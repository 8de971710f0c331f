"""A user's own network, checkpoint and images, from file to scored artifact."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

from edgevit.cli.main import main

COLOURS = {"blue": (20, 30, 220), "green": (30, 210, 40), "grey": (120, 120, 120), "red": (220, 20, 30)}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with a model file, a checkpoint, labels and four classes of images, and its artifact."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes=4):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    spec = importlib.util.spec_from_file_location("net", folder / "net.py")
    net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(net)
    model = net.build()
    with torch.no_grad():  # each class answers to its own mean colour
        centres = torch.tensor([COLOURS[name] for name in COLOURS]) / 255
        centres = (centres - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        model[2].weight.copy_(2 * centres)
        model[2].bias.copy_(-(centres**2).sum(1))
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, folder / "w.pt")
    (folder / "labels.txt").write_text("\n".join(COLOURS) + "\n")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "data" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.clip(rng.normal(colour, 12, (20 + i, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    _run(
        "convert",
        f"{folder / 'net.py'}:build",
        "-t",
        "tflite",
        "--weights",
        folder / "w.pt",
        "--input-size",
        32,
        "--labels",
        folder / "labels.txt",
        "--out",
        folder / "out",
    )
    return folder


def _run(*arguments) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code in (0, None)


def test_artifact_names_the_checkpoint(workshop):
    manifest = json.loads((workshop / "out/net-fp32-tflite/manifest.json").read_text())
    weights = manifest["provenance"]["weights"]
    assert (weights["source"], weights["file"]) == ("checkpoint", "w.pt")
    assert manifest["labels"] == list(COLOURS)


def test_evaluate_scores_artifact_and_checkpoint_on_the_same_images(workshop, capsys):
    _run(
        "evaluate",
        workshop / "out/net-fp32-tflite",
        "--weights",
        workshop / "w.pt",
        "--model",
        f"{workshop / 'net.py'}:build",
        "--data",
        workshop / "data",
        "--json",
    )
    (document,) = json.loads(capsys.readouterr().out)
    assert document["data"] == {
        "source": "data",
        "split": "test",
        "samples": 12,
        "skipped": 0,
        "metric": "top-1",
        "checkpoint": 1.0,
        "artifact": 1.0,
        "float_network": 1.0,
        "agreement": 1.0,
        "scores": {"top-1": {"checkpoint": 1.0, "artifact": 1.0}},
    }
    assert document["parity"]["samples"] == 2 + 12
    saved = workshop / "out/results/net-fp32-tflite.evaluate.json"
    assert json.loads(saved.read_text()) == document


def test_predict_names_the_colour(workshop, capsys):
    _run("predict", workshop / "out/net-fp32-tflite", workshop / "data/red/0.png", "--top", 1, "--json")
    (document,) = json.loads(capsys.readouterr().out)
    assert document["classes"][0]["label"] == "red"


def test_another_checkpoint_is_not_taken_for_the_reference(workshop, capsys, tmp_path):
    state = torch.load(workshop / "w.pt", weights_only=True)["state_dict"]
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "other.pt")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "evaluate",
                str(workshop / "out/net-fp32-tflite"),
                "--data",
                str(workshop / "data"),
                "--weights",
                str(tmp_path / "other.pt"),
                "--model",
                f"{workshop / 'net.py'}:build",
            ]
        )
    assert ended.value.code == 2
    assert "was not made from" in capsys.readouterr().err
