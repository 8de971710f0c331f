"""Recipes in TOML: what they say is checked to the key and the type."""

from __future__ import annotations

import dataclasses

import pytest

from edgevit.errors import UsageError
from edgevit.training.recipe import Augmentation, get_recipe
from edgevit.training.recipe_file import open_recipe


@pytest.fixture
def write(tmp_path):
    """write(text) -> path of a recipe file."""

    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_name_opens_the_recipe_that_comes_with_edgevit():
    assert open_recipe("mobile") is get_recipe("mobile")


def test_file_stands_over_its_base_to_the_field(write):
    mine = open_recipe(
        write('base = "mobile"\nepochs = 7\nlearning_rate = 1\nfreeze_norms = true\ndrop_path = 0.2\n'
              "[augmentation]\nhorizontal_flip = 0\n[distillation]\ntemperature = 4\n")
    )  # fmt: skip
    base = get_recipe("mobile")
    assert mine == dataclasses.replace(
        base,
        name="mine",
        epochs=7,
        learning_rate=1.0,
        freeze_norms=True,
        drop_path=0.2,
        augmentation=dataclasses.replace(base.augmentation, horizontal_flip=0.0),
        distillation=dataclasses.replace(base.distillation, temperature=4.0),
    )
    assert type(mine.learning_rate) is float


def test_file_without_a_base_starts_from_the_defaults(write):
    mine = open_recipe(write("epochs = 2\nbatch_size = 4\nlearning_rate = 0.1\n[augmentation]\nshift = 0.1\n"))
    assert mine.augmentation == Augmentation(shift=0.1)
    assert mine.ema_decay == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "mobile"\nepoch = 3', r"unknown recipe key 'epoch' \(did you mean epochs"),
        ('base = "mobile"\n[augmentation]\nflip = 0.5', "unknown augmentation key 'flip'"),
        ('base = "mobil"', "unknown recipe 'mobil'.*did you mean mobile"),
        ('base = "mobile"\nname = "other"', "unknown recipe key 'name'"),
        ('base = "mobile"\nepochs = 3.5', "epochs is 3.5.*whole number"),
        ('base = "mobile"\nepochs = true', "epochs is True.*whole number"),
        ('base = "mobile"\nlearning_rate = "fast"', "learning_rate is 'fast'.*a number"),
        ('base = "mobile"\nfreeze_norms = 1', "freeze_norms is 1.*true or false"),
        ('base = "mobile"\naugmentation = 3', "augmentation is 3.*a table"),
        ('base = "mobile"\nema_decay = 1.0', "ema_decay is 1.0.*from 0 to below 1"),
        ("epochs = 3", "has no batch_size, learning_rate"),
        ("epochs", "is no TOML"),
    ],
)
def test_mistakes_are_named_with_a_fix(write, text, message):
    with pytest.raises(UsageError, match=message):
        open_recipe(write(text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        open_recipe(str(tmp_path / "none.toml"))
