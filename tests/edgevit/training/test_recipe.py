"""Recipes check themselves and say the fix."""

from __future__ import annotations

import dataclasses

import pytest

from edgevit.errors import UsageError
from edgevit.training.recipe import RECIPES, Augmentation, Recipe, get_recipe


def test_digits_recipe_is_found_by_name():
    assert get_recipe("digits") is RECIPES["digits"]
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean digits"):
        get_recipe("digit")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("warmup_epochs", 99),
        ("label_smoothing", 1.0),
        ("seed", -1),
    ],
)
def test_value_out_of_range_is_named_with_its_range(field, value):
    with pytest.raises(UsageError, match=f"recipe: {field} is .*use a value"):
        dataclasses.replace(get_recipe("digits"), **{field: value})


@pytest.mark.parametrize("field", ["shift", "scale", "rotation_degrees"])
def test_negative_augmentation_is_refused(field):
    with pytest.raises(UsageError, match=field):
        Augmentation(**{field: -0.1})


def test_recipe_without_augmentation_is_valid():
    assert Recipe("plain", epochs=1, batch_size=2, learning_rate=0.1).augmentation == Augmentation()
