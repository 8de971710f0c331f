"""Converter options: from names and values as a user gives them to a converter's own frozen `Options`.

A field whose metadata has "numeric" changes the outputs, and one that has "named" where they are computed: both are
part of the artifact's name where they are not at their default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from edgevit.targets.base import Converter

# Options that had another name or other values before: old name -> new name, and old value -> new value.
RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "arithmetic": ("int8_compute", {"integers": "exact"}),
    "weights": ("weight_compression", {"full": "none"}),
}


def options_for(converter: Converter, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a converter, the given ones and the defaults; "TARGET.KEY" is for that target alone.

    Raises UsageError for unknown and renamed ones, and for values that the converter does not take.
    """
    fields = {field.name: field for field in dataclasses.fields(converter.Options)}
    own = {}
    for name, value in given.items():
        addressed, dot, key = name.rpartition(".")
        if dot and addressed != converter.name:
            continue
        _require_current(name, key, value, converter)
        if key not in fields:
            raise unknown_name(f"option of {converter.name}", key, fields or {"(it has none)"})
        own[key] = _typed(converter, fields[key], value)
    return dataclasses.asdict(converter.Options(**own))


def name_parts(options: Any) -> list[str]:
    """ "weight_compression-int8" for each option in use that belongs in the artifact's name."""
    fields = [field for field in dataclasses.fields(options) if {"numeric", "named"} & field.metadata.keys()]
    chosen = [(field, getattr(options, field.name)) for field in fields]
    return [f"{field.name}-{value}" for field, value in chosen if value != field.default]


def without_numeric(options: Any) -> Any:
    """The same options with all numeric ones at their defaults, as in the fp32 reference build."""
    numeric = [field for field in dataclasses.fields(options) if field.metadata.get("numeric")]
    return dataclasses.replace(options, **{field.name: field.default for field in numeric})


def _require_current(name: str, key: str, value: Any, converter: Converter) -> None:
    """Raise UsageError that names the new word, for a key or a value that was renamed; name: the key as given."""
    fields = {field.name for field in dataclasses.fields(converter.Options)}
    for old, (new, values) in RENAMED.items():
        if (key == old and key not in fields) or (key == new and str(value) in values):
            current = f"{new}={values.get(str(value), value)}"
            fix = f"write -O {name.removesuffix(key)}{current}"
            if new not in fields:
                fix = f"leave it out: {converter.name} has no such option"
            raise UsageError(f"option {key}={value} is now {current}", fix=fix)


def _typed(converter: Converter, field: dataclasses.Field[Any], value: Any) -> Any:
    """An option as the type of its field: the command line has "true" and "false" for booleans."""
    if not isinstance(field.default, bool) or isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise UsageError(f"{converter.name}'s {field.name} is true or false, not {value!r}", fix="write it so")
    return value == "true"
