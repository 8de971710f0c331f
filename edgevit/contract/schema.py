"""Checks a JSON document against its schema; an error names the place in one line."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from edgevit.contract.strict_json import read_json
from edgevit.errors import ContractError

VERSION = 2  # of all documents: one number, raised when readers of the old form would misread the new one
_MIB = 1 << 20
MAX_BYTES = {"manifest": 4 * _MIB, "job": 4 * _MIB, "raw_report": 64 * _MIB}
MAX_RESULT_BYTES = 256 * _MIB  # of what edgevit alone writes and reads: profiles and comparisons hold raw reports

_AGAIN = {  # how a document of another version comes to be one of this
    "edgevit.manifest": "convert it again: edgevit convert MODEL --weights CHECKPOINT --target TARGET",
    "edgevit.job": "start the measurement again: edgevit profile ARTIFACT",
    "edgevit.raw_report": "measure again: edgevit profile ARTIFACT",
    "edgevit.profile": "measure again: edgevit profile ARTIFACT",
    "edgevit.comparison": "measure again: edgevit profile ARTIFACT ARTIFACT --compare",
    "edgevit.verification": "run it again: edgevit verify ARTIFACT, or edgevit evaluate ARTIFACT --data FOLDER",
    "edgevit.debug": "run it again: edgevit debug ARTIFACT --weights CHECKPOINT",
}


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`: manifest, job or raw_report."""
    text = resources.files(__package__).joinpath("schemas", f"{name}.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def require_version(document: dict[str, Any], schema: str, where: str) -> None:
    """Raise ContractError, with the command that makes it again, unless a document is `schema` of this version."""
    found, version = document.get("schema"), document.get("schema_version")
    if found != schema:
        raise ContractError(f"{where}: schema: {str(found)[:80]!r} is not {schema!r}", fix=_AGAIN[schema])
    if type(version) is not int or version != VERSION:
        raise ContractError(
            f"{where}: schema_version: {str(version)[:80]} of {schema} cannot be read, {VERSION} is needed",
            fix=_AGAIN[schema],
        )


def validate(document: dict[str, Any], name: str, where: str) -> None:
    """Raise ContractError naming the first place where `document` breaks schema `name`."""
    import jsonschema

    require_version(document, f"edgevit.{name}", where)
    error = jsonschema.exceptions.best_match(_validator(name).iter_errors(document))
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path) or "top level"
        raise broken(name, where, place, error.message)


def broken(name: str, where: str, place: str, message: str) -> ContractError:
    """The error for one place in a document that breaks schema `name`, or the page behind it."""
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in f"{place}: {message[:200]}")
    return ContractError(f"{where}: {text}", fix=f"see schemas/{name}.schema.json")


def read_document(path: Path, name: str) -> dict[str, Any]:
    """Read and validate a JSON file. ContractError if it is missing, huge, no JSON or against its schema."""
    whole = "an artifact folder that `edgevit convert` wrote" if name == "manifest" else f"a whole {name} file"
    document = read_json(path, MAX_BYTES[name], fix=f"give {whole}")
    validate(document, name, str(path))
    return document


@functools.cache
def _validator(name: str) -> Any:
    """jsonschema's, but integers have no fraction, and patterns mean what they mean in ECMAScript."""
    import jsonschema

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("integer", lambda _, value: isinstance(value, int) and type(value) is not bool)
    return jsonschema.validators.extend(base, {"pattern": _pattern}, type_checker=types)(load_schema(name))


def _pattern(validator: Any, pattern: str, instance: object, schema: dict[str, Any]) -> Iterator[Exception]:
    r"""Python's $ also matches before a last line break, and its \d takes the digits of every script."""
    import jsonschema

    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance, re.ASCII):
        yield jsonschema.ValidationError(f"{instance[:80]!r} does not fit: {schema.get('description', pattern)}")
