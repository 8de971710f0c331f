"""Checks a JSON document against its schema, and says where it breaks in one line."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from edgevit.errors import ContractError

MAX_DOCUMENT_BYTES = 64 << 20


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`: manifest, job or report."""
    text = resources.files(__package__).joinpath("schemas", f"{name}.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def validate(document: object, name: str, where: str) -> None:
    """Raise ContractError naming the first place where `document` breaks schema `name`."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(load_schema(name))
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path) or "top level"
        raise ContractError(f"{where}: {place}: {error.message[:200]}", fix=f"see schemas/{name}.schema.json")


def read_document(path: Path, name: str) -> dict[str, Any]:
    """Read and validate a JSON file. ContractError if it is missing, huge, no JSON or against its schema."""
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ContractError(f"{path} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB", fix=f"no {name} is that large")
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fix = (
            "give an artifact folder that `edgevit convert` wrote"
            if name == "manifest"
            else f"give a whole {name} file"
        )
        raise ContractError(f"cannot read {path}: {error.strerror or error}", fix=fix) from error
    except ValueError as error:
        raise ContractError(
            f"{path} is not JSON: {error}", fix="make it again; the file was edited or cut off"
        ) from error
    validate(document, name, str(path))
    return document
