"""Recipes check themselves and say the fix."""

from __future__ import annotations

import dataclasses

import pytest

from edgevit.errors import UsageError
from edgevit.training.recipe import RECIPES, Augmentation, Recipe, adjusted, get_recipe


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


@pytest.mark.parametrize(("epochs", "warmup"), [(None, 5), (1, 0), (10, 0), (30, 2), (100, 5), (300, 5)])
def test_warm_up_keeps_its_share_of_a_shorter_run(epochs, warmup):
    mobile = get_recipe("mobile")
    run = adjusted(mobile, epochs)
    assert run == dataclasses.replace(mobile, epochs=epochs or 100, warmup_epochs=warmup)


def test_learning_rate_stands_over_the_recipe():
    digits = get_recipe("digits")
    assert adjusted(digits, learning_rate=1e-4) == dataclasses.replace(digits, learning_rate=1e-4)


def test_no_epochs_are_refused():
    with pytest.raises(UsageError, match="recipe: epochs is 0"):
        adjusted(get_recipe("mobile"), epochs=0)
