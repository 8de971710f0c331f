"""The model zoo: one file per family, each ending in its VARIANTS table. This package finds them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgevit.errors import unknown_name

if TYPE_CHECKING:
    from torch import nn

    from edgevit.spec import ModelSpec

_NOT_FAMILIES = frozenset({"counting", "layers", "resnet"})


@functools.cache
def families() -> dict[str, tuple[ModelSpec, ...]]:
    """The variants of every family, by the family's name: that of its file."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_FAMILIES]
    return {name: importlib.import_module(f"{__name__}.{name}").VARIANTS for name in names}


@functools.cache
def _specs() -> dict[str, ModelSpec]:
    return {spec.name: spec for variants in families().values() for spec in variants}


def iter_specs() -> Iterator[ModelSpec]:
    """Every variant of every family, in name order of the families."""
    yield from _specs().values()


def is_listed(name: str) -> bool:
    """Whether edgevit has a model of this name; networks of users have others."""
    return name in _specs()


def get_spec(name: str) -> ModelSpec:
    """The spec called `name`; UsageError with the nearest names if there is none."""
    try:
        return _specs()[name]
    except KeyError:
        raise unknown_name("model", name, _specs()) from None


def create_model(name: str, *, num_classes: int | None = None, input_size: int | None = None) -> nn.Module:
    """Build a variant in its training form with random weights and official state-dict keys.

    None keeps the published class count or input size. The module takes normalised float32
    images (N, 3, S, S) and returns logits (N, classes), or (N, classes, S, S) for segmentation.
    """
    spec = get_spec(name).for_task(num_classes, input_size)
    model = spec.instantiate()
    # So that `edgevit.convert(model)` needs no further words; torch's stub knows of tensors and modules alone.
    model.edgevit_spec = spec  # type: ignore[assignment]
    return model
