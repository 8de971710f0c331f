"""Errors on their way from one process to another, as JSON values: nothing is pickled.

A class is found by its module and name and given back its message, its fix and its other fields; its own constructor
does not run, so an error whose constructor wants more than a message arrives all the same.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Collection
from typing import Any

from edgevit.errors import EdgevitError

_MAX_DEPTH = 16  # of values within values; what is deeper is not plain


class _NotPlain(ValueError):
    """A value that has no JSON form here, or a record that has no value."""


def error_to_json(error: BaseException) -> dict[str, Any]:
    """Class and text of any error, and of an EdgevitError its fields; one that is not plain data becomes null."""
    kind = type(error)
    record: dict[str, Any] = {"module": kind.__module__, "name": kind.__qualname__}
    if not isinstance(error, EdgevitError):
        return record | {"message": _shown(error), "fix": "", "fields": {}}
    # One whose constructor did not call ours has no message of its own.
    message = _text(getattr(error, "message", " ".join(map(str, error.args))))
    others = {name: value for name, value in vars(error).items() if name not in ("message", "fix")}
    fields = {_text(name): _field_to_json(value) for name, value in others.items()}
    return record | {"message": message, "fix": _text(getattr(error, "fix", "")), "fields": fields}


def error_from_json(record: dict[str, Any], packages: Collection[str]) -> EdgevitError | None:
    """The error itself; None if it is no EdgevitError, or its class is not to be found.

    packages: the top-level packages whose modules may be imported for it.
    """
    try:
        kind = _find_class(record["module"], record["name"], packages)
        if not issubclass(kind, EdgevitError):
            return None
        fields = {name: _from_json(value, packages) for name, value in record["fields"].items()}
        error: EdgevitError = Exception.__new__(kind, record["message"])
    except (_NotPlain, TypeError):  # TypeError: the class is an OSError or the like, too, with a `__new__` of its own
        return None
    vars(error).update(fields, message=record["message"], fix=record["fix"])
    return error


def error_text(record: dict[str, Any]) -> str:
    """ "RuntimeError: kernel 17 is missing" of a record whose class is not at hand."""
    return f"{record['name']}: {record['message']}" if record["message"] else str(record["name"])


def _shown(error: BaseException) -> str:
    try:
        return _text(error)
    except Exception:  # its own __str__ is at fault
        return ""


def _text(value: object) -> str:
    """As text that UTF-8 can hold: names of files may have bytes that it cannot."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _find_class(module: str, name: str, packages: Collection[str]) -> type:
    if module.partition(".")[0] not in packages:
        raise _NotPlain(f"{module} is none of {packages}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever a plug-in's module does when it is imported
        raise _NotPlain(f"{module}.{name}: {error}") from error
    if not isinstance(found, type):
        raise _NotPlain(f"{module}.{name} is no class")
    return found


def _field_to_json(value: Any) -> Any:
    try:
        return _to_json(value, 0)
    except _NotPlain:
        return None


def _to_json(value: Any, depth: int) -> Any:
    """Scalars and lists as they are, all else as an object of one key that says what it is."""
    if depth > _MAX_DEPTH:
        raise _NotPlain("too deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, (int, str)):
        return int(value) if isinstance(value, int) else _text(value)
    if isinstance(value, (list, tuple)):
        items = [_to_json(item, depth + 1) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {_text(key): _to_json(item, depth + 1) for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _to_json(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value)}
        return {"dataclass": [type(value).__module__, type(value).__qualname__, fields]}
    raise _NotPlain(f"a {type(value).__name__}")


def _from_json(value: Any, packages: Collection[str]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, packages) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_from_json(item, packages) for item in content)
    if kind == "dict":
        return {key: _from_json(item, packages) for key, item in content.items()}
    module, name, stored = content
    return _restore(_find_class(module, name, packages), {k: _from_json(v, packages) for k, v in stored.items()})


def _restore(kind: type, fields: dict[str, Any]) -> Any:
    """A dataclass with these fields, its constructor not run."""
    if not dataclasses.is_dataclass(kind) or {field.name for field in dataclasses.fields(kind)} != set(fields):
        raise _NotPlain(f"{kind.__qualname__} has other fields")
    restored = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(restored, name, value)
    return restored
