"""How to train: the numbers of a run, as checked plain data, and the recipes that come with edgevit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgevit.errors import UsageError, unknown_name


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a training image may be changed at random, each one by its own draw. Zeros, and crop_area 1, change none.

    shift is a share of the image side, scale a share of its size, rotation_degrees an angle: each from -value to
    +value. crop_area: the least share of the area that a crop keeps; its sides are as 3:4 to 4:3, and it is enlarged
    to the whole. horizontal_flip is a probability. color_jitter: contrast and saturation by a factor 1 - value to
    1 + value, brightness by up to this many standard deviations of the pixel values.
    """

    shift: float = 0.0
    scale: float = 0.0
    rotation_degrees: float = 0.0
    crop_area: float = 1.0
    horizontal_flip: float = 0.0
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, value, least, most in [
            ("shift", self.shift, 0.0, 0.5),
            ("scale", self.scale, 0.0, 0.9),
            ("rotation_degrees", self.rotation_degrees, 0.0, 180.0),
            ("crop_area", self.crop_area, 0.05, 1.0),
            ("horizontal_flip", self.horizontal_flip, 0.0, 1.0),
            ("color_jitter", self.color_jitter, 0.0, 0.9),
        ]:
            _check(f"augmentation {name}", value, least <= value <= most, f"from {least:g} to {most:g}")

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return self != Augmentation(color_jitter=self.color_jitter)


@dataclass(frozen=True, slots=True)
class Distillation:
    """How a teacher counts, where a run has one: soft_share of the loss is the distance from its outputs.

    Both outputs are divided by the temperature before their softmax; the rest of the loss is that of the labels.
    """

    soft_share: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        _check("distillation soft_share", self.soft_share, 0 < self.soft_share <= 1, "above 0 and at most 1")
        _check("distillation temperature", self.temperature, 0.1 <= self.temperature <= 100, "from 0.1 to 100")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run: AdamW, linear warm-up, cosine to zero, cross entropy with label smoothing.

    Epoch counts are passes over the training set; learning_rate is the peak; a batch is that of all processes together.
    gradient_clip: the longest gradient, 0 for any. ema_decay: of the moving average of the weights, which then is what
    is scored and saved; 0 for none. mixup_alpha and cutmix_alpha: both parameters of the beta distribution that
    decides how much of another image is mixed in, by blending or as a rectangle; 0 for none, a coin where both are on.
    drop_path: share of residual branches that the deepest block drops, None for the model's own. freeze_norms: batch
    norms keep statistics, scale and shift. dice weighs the Dice loss that segmentation adds to the cross entropy of its
    pixels; several processes take it over the images of each.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup_epochs: int = 1
    gradient_clip: float = 0.0
    label_smoothing: float = 0.1
    dice: float = 0.0
    ema_decay: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    drop_path: float | None = None
    freeze_norms: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    distillation: Distillation = field(default_factory=Distillation)
    seed: int = 0

    def __post_init__(self) -> None:
        drop_path = 0.0 if self.drop_path is None else self.drop_path
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch_size", self.batch_size, self.batch_size >= 2, "at least 2: batch norm needs a batch")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "above 0 and at most 1")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay <= 1, "from 0 to 1")
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs <= self.epochs, "from 0 to epochs")
        _check("gradient_clip", self.gradient_clip, 0 <= self.gradient_clip < float("inf"), "from 0")
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "from 0 to below 1")
        _check("dice", self.dice, 0 <= self.dice <= 10, "from 0 to 10")
        _check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "from 0 to below 1")
        _check("mixup_alpha", self.mixup_alpha, 0 <= self.mixup_alpha <= 10, "from 0 to 10")
        _check("cutmix_alpha", self.cutmix_alpha, 0 <= self.cutmix_alpha <= 10, "from 0 to 10")
        _check("drop_path", drop_path, 0 <= drop_path < 1, "from 0 to below 1")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")


def _check(name: str, value: float, holds: bool, range_text: str) -> None:
    if not holds:  # comparisons with not-a-number are false, so it is refused too
        raise UsageError(f"recipe: {name} is {value}", fix=f"use a value {range_text}")


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
            epochs=24,
            batch_size=64,
            learning_rate=2e-3,
            augmentation=Augmentation(shift=0.1, scale=0.15, rotation_degrees=10.0, horizontal_flip=0.5),
        ),
        Recipe(
            name="tiles",  # segmentation from scratch at 64x64: some minutes on two cores
            epochs=4,
            batch_size=16,
            learning_rate=2e-3,
            label_smoothing=0.0,
            dice=1.0,
            augmentation=Augmentation(shift=0.1, scale=0.15, rotation_degrees=20.0),
        ),
        Recipe(
            name="mobile",  # image folders at full size, from scratch or from weights
            epochs=100,
            batch_size=128,
            learning_rate=1e-3,
            warmup_epochs=5,
            gradient_clip=5.0,
            ema_decay=0.9998,
            mixup_alpha=0.2,
            cutmix_alpha=1.0,
            augmentation=Augmentation(rotation_degrees=10.0, crop_area=0.35, horizontal_flip=0.5, color_jitter=0.3),
        ),
        Recipe(
            name="qat",  # fine-tuning with quantizers: no decay, which would pull ranges to zero
            epochs=3,
            batch_size=64,
            learning_rate=2e-4,
            weight_decay=0.0,
            warmup_epochs=0,
            distillation=Distillation(soft_share=1.0, temperature=4.0),  # not the first class alone
        ),
        Recipe(
            name="prune",  # what is left learns to do without the weights that are zero
            epochs=3,
            batch_size=64,
            learning_rate=5e-4,
            weight_decay=0.0,
            warmup_epochs=0,
            distillation=Distillation(soft_share=1.0, temperature=1.0),
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; UsageError with the nearest names if there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise unknown_name("recipe", name, RECIPES) from None


def adjusted(recipe: Recipe, epochs: int | None = None, learning_rate: float | None = None) -> Recipe:
    """The recipe with other epochs and another peak, where given; the warm-up keeps its share of a shorter run."""
    epochs = recipe.epochs if epochs is None else epochs
    return replace(
        recipe,
        epochs=epochs,
        warmup_epochs=round(recipe.warmup_epochs * min(1.0, epochs / recipe.epochs)),
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
    )


def fine_tuning(
    name: str, training: Mapping[str, Any], epochs: int | None = None, learning_rate: float | None = None
) -> Recipe:
    """The recipe called `name` for a network that is trained already, with the augmentation that it was trained with.

    training: what its checkpoint's metadata records of that; epochs and learning_rate stand over the recipe's own.
    """
    augmentation = Augmentation(**training.get("recipe", {}).get("augmentation", {}))
    return replace(adjusted(get_recipe(name), epochs, learning_rate), augmentation=augmentation)
