"""`edgevit.train` from public names alone: names, paths and objects."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

import edgevit
from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.errors import UsageError
from edgevit.training.trainer import train_network
from tests.edgevit.training.test_trainer import RECIPE, build, colours, toy_spec

SETS = colours(16), colours(8)
SHORT = dataclasses.replace(RECIPE, epochs=1)


def _folder(root: Path) -> Path:
    """SETS as image files."""
    for split, images in zip(("train", "test"), SETS, strict=True):
        for index, (pixels, target) in enumerate(zip(images.images, images.targets, strict=True)):
            path = root / split / images.labels[target] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def test_module_is_trained_from_a_copy_of_its_weights(tmp_path):
    module = build(2, 8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    spec = dataclasses.replace(toy_spec(), build=lambda classes, size: module)
    result = edgevit.train(module, spec=spec, data=SETS, recipe=SHORT, out=tmp_path / "python.pt", threads=1)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    expected = train_network(spec, *SETS, SHORT, tmp_path / "expected.pt", threads=1)
    assert (result.score, result.curve[-1].loss) == (expected.score, expected.curve[-1].loss)
    one, other = (read_checkpoint(tmp_path / f"{name}.pt").state_dict for name in ("python", "expected"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_names_and_paths_are_enough(tmp_path, my_model):
    recipe = tmp_path / "short.toml"
    recipe.write_text('base = "digits"\nepochs = 3\n')
    data, out = _folder(tmp_path / "data"), tmp_path / "net.pt"
    result = edgevit.train(
        f"{my_model}:build", data=data, recipe=recipe, epochs=1, learning_rate=1e-3, input_size=16, out=out
    )
    metadata = read_checkpoint(out).metadata
    assert (result.checkpoint, result.epochs) == (out, 1)
    assert (metadata.labels, metadata.input_size) == (("blue", "red"), 16)
    assert (metadata.training["recipe"]["name"], metadata.training["recipe"]["learning_rate"]) == ("short", 1e-3)
    taught = edgevit.train(
        f"{my_model}:build",
        data=str(data),
        epochs=1,
        input_size=16,
        teacher=f"{my_model}:build",
        teacher_weights=out,
        out=tmp_path / "taught.pt",
    )
    assert taught.epochs == 1


@pytest.mark.parametrize("given", [{"teacher": "van_b0"}, {"teacher_weights": "w.pt"}])
def test_teacher_and_its_weights_belong_together(tmp_path, given):
    with pytest.raises(UsageError, match="belong together"):
        edgevit.train("van_b0", data=SETS, out=tmp_path / "net.pt", **given)


def test_module_without_spec_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no spec for a Sequential"):
        edgevit.train(build(2, 8), data=SETS, out=tmp_path / "net.pt")
