"""Dataclasses to what JSON holds and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


def build(cls: type[T], document: Mapping[str, Any], **convert: Callable[[Any], Any]) -> T:
    """A dataclass from the keys of an object that it has fields for; `convert` types some of them."""
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    return cls(
        **{key: convert[key](value) if key in convert else value for key, value in document.items() if key in known}
    )


def optional(make: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """`make`, which leaves null alone."""
    return lambda value: None if value is None else make(value)


def items(make: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """`make` for each item of an array."""
    return lambda values: tuple(make(value) for value in values)


def fields_of(value: Any) -> dict[str, Any]:
    """A dataclass as an object, everything in it plain."""
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def plain(value: Any) -> Any:
    """Dataclasses to objects, tuples to arrays, enums to their values: what a JSON reader would give back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value
