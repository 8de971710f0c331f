"""Recipes from TOML files: a few lines over a named recipe, each key and type checked."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from edgevit.errors import UsageError, unknown_name
from edgevit.training.recipe import Recipe, get_recipe

_BASE = "base"  # key of the recipe that a file starts from
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def open_recipe(recipe: str | Path) -> Recipe:
    """The recipe that is called so, or that a file ending in .toml holds.

    A file has the fields of Recipe as keys, those of augmentation and distillation in tables of these names; `base`
    names the recipe whose values stand where the file gives none. The file's stem is the recipe's name.
    Raises UsageError for unknown names and keys, with the nearest that exist, and for values of a wrong type or range.
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        return get_recipe(str(recipe))
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read recipe {path}: {error.strerror}", fix="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is no TOML: {error}", fix="write lines such as epochs = 30") from error
    base = given.pop(_BASE, None)
    start = {} if base is None else _values(get_recipe(str(base)))
    values = start | {"name": path.stem} | _checked(given, Recipe, "recipe", start)
    missing = [field.name for field in dataclasses.fields(Recipe) if _required(field) and field.name not in values]
    if missing:
        raise UsageError(
            f"recipe {path} has no {', '.join(missing)}", fix='add them, or a recipe to start from: base = "mobile"'
        )
    return Recipe(**values)


def _checked(given: dict[str, Any], kind: type, where: str, start: dict[str, Any]) -> dict[str, Any]:
    """What a table gives for the fields of a dataclass; `start` holds the values that a part of it stands over."""
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name != "name"}
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key not in hints:
            raise unknown_name(f"{where} key", key, hints)
        wanted: Any = hints[key]
        if isinstance(wanted, types.UnionType):
            (wanted,) = set(typing.get_args(wanted)) - {types.NoneType}
        if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
            _require(isinstance(value, dict), where, key, value, "a table")
            part = _values(start[key]) if key in start else {}
            checked[key] = wanted(**(part | _checked(value, wanted, key, {})))
        else:
            number = wanted is float and type(value) is int
            _require(type(value) is wanted or number, where, key, value, _KINDS[wanted])
            checked[key] = float(value) if number else value
    return checked


def _values(instance: Any) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _require(holds: bool, where: str, key: str, value: object, wanted: str) -> None:
    if not holds:
        raise UsageError(f"{where}: {key} is {value!r}", fix=f"give {wanted}")
