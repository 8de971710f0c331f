"""How to train: the numbers of a run, as checked plain data, and the recipes that come with edgevit."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgevit.errors import UsageError, unknown_name


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Largest random change of a training image, each drawn uniformly from -value to +value.

    shift is a share of the image side, scale a share of its size, rotation_degrees an angle.
    """

    shift: float = 0.0
    scale: float = 0.0
    rotation_degrees: float = 0.0

    def __post_init__(self) -> None:
        for name, value, limit in [
            ("shift", self.shift, 0.5),
            ("scale", self.scale, 0.9),
            ("rotation_degrees", self.rotation_degrees, 180.0),
        ]:
            _check(f"augmentation {name}", value, 0 <= value <= limit, f"from 0 to {limit:g}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run: AdamW, linear warm-up, cosine to zero, cross entropy with label smoothing.

    Epoch counts are passes over the training set; learning_rate is the peak. dice weighs the Dice loss that
    segmentation adds to the cross entropy of its pixels.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup_epochs: int = 1
    label_smoothing: float = 0.1
    dice: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch_size", self.batch_size, self.batch_size >= 2, "at least 2: batch norm needs a batch")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "above 0 and at most 1")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay <= 1, "from 0 to 1")
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs <= self.epochs, "from 0 to epochs")
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "from 0 to below 1")
        _check("dice", self.dice, 0 <= self.dice <= 10, "from 0 to 10")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")


def _check(name: str, value: float, holds: bool, range_text: str) -> None:
    if not holds:  # comparisons with not-a-number are false, so it is refused too
        raise UsageError(f"recipe: {name} is {value}", hint=f"use a value {range_text}")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",  # van_b0 from scratch at 32x32: about a minute on two cores
            epochs=6,
            batch_size=64,
            learning_rate=2e-3,
            augmentation=Augmentation(shift=0.06, scale=0.1, rotation_degrees=10.0),
        ),
        Recipe(
            name="photos",  # from scratch at 32x32: some minutes on two cores
            epochs=12,
            batch_size=64,
            learning_rate=2e-3,
            augmentation=Augmentation(shift=0.1, scale=0.15, rotation_degrees=10.0),
        ),
        Recipe(
            name="tiles",  # segmentation from scratch at 64x64: some minutes on two cores
            epochs=8,
            batch_size=16,
            learning_rate=2e-3,
            label_smoothing=0.0,
            dice=1.0,
            augmentation=Augmentation(shift=0.1, scale=0.15, rotation_degrees=20.0),
        ),
        Recipe(
            name="qat",  # fine-tuning with quantizers: no decay, which would pull ranges to zero
            epochs=3,
            batch_size=64,
            learning_rate=2e-4,
            weight_decay=0.0,
            warmup_epochs=0,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; UsageError with the nearest names if there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise unknown_name("recipe", name, RECIPES) from None
