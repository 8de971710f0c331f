"""A JSON reader that takes what Python, Kotlin and Swift read alike, and refuses the rest.

Python's own reader keeps the last of two equal keys, takes NaN and unpaired surrogates, and nests until its stack ends.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from edgevit.errors import ContractError

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1  # what a double, the only number of some readers, holds exactly
_MAX_DIGITS = 16  # of that integer
_FIX = "make it again; the file was edited or cut off"


def read_json(path: Path, limit_bytes: int, fix: str = _FIX) -> dict[str, Any]:
    """The one object in a UTF-8 file. fix: what to do about a file that cannot be opened.

    Raises ContractError if it is missing, larger than `limit_bytes`, or not such JSON.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise ContractError(f"cannot read {path}: {error.strerror or error}", fix=fix) from error
    return parse_json(data, str(path), limit_bytes)


def parse_json(data: bytes, where: str, limit_bytes: int) -> dict[str, Any]:
    """The one object in UTF-8 bytes; raises ContractError, which names `where`, as `read_json` does."""
    if len(data) > limit_bytes:
        raise ContractError(f"{where} is larger than {limit_bytes >> 20} MiB", fix="no document of this kind is")
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
        if not isinstance(document, dict):
            raise ValueError("its top level is not an object")
        _check(document, 1)
    except RecursionError:
        raise ContractError(f"{where} is not JSON of ours: more than {MAX_DEPTH} deep", fix=_FIX) from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are of this kind
        raise ContractError(f"{where} is not JSON of ours: {error}", fix=_FIX) from error
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice[:80]!r} stands twice in one object")
    return document


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:80]} is beyond the range of a double")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text.lstrip("-")) <= _MAX_DIGITS else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise ValueError(f"integer {text[:80]} is beyond 2^53 - 1")
    return value


def _check(value: object, depth: int) -> None:
    """Raise ValueError for what only shows once the text is parsed: its depth, and strings that are no text."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a string holds an unpaired surrogate") from None
    elif isinstance(value, (dict, list)):
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} deep")
        for item in value:
            _check(item, depth + 1)
        if isinstance(value, dict):
            for item in value.values():
                _check(item, depth + 1)
