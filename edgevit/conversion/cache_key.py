"""What a conversion depends on, as one key: its request, input files, code, tools and machine; imports none of them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.user_models import is_file_model, split_factory
from edgevit.infra.files import list_files, sha256_file
from edgevit.targets.registry import converter_package

if TYPE_CHECKING:
    from edgevit.conversion.request import ConversionRequest

_FORMAT = 3  # of the keys; a new number forgets every cached artifact. 2: the options had other names
# Fields of a request that do not change the artifact; all others are part of the key, new ones, too.
NOT_IN_KEY = frozenset({"out", "timeout_s", "cache"})
_code_in_memory: dict[str, str] = {}  # package -> digest of its files when this process first looked


class _Unkeyed(TypeError):
    """A value that cannot be distinguished from another one by its bytes, such as a model in memory."""


def conversion_key(request: ConversionRequest, target: str) -> str | None:
    """SHA-256 over everything that decides the artifact of one target of a request.

    Of files names and bytes count. The code is every file of edgevit and of the converter's package, the tools are all
    installed distributions. None, which forbids caching: for models and images in memory, if a file cannot be read, or
    if code on disk is no longer what this process runs.
    """
    try:
        code = {package: code_digest(package) for package in ("edgevit", converter_package(target))}
        arguments = _arguments(request, target)
    except (OSError, _Unkeyed):
        return None
    if any(_code_in_memory.setdefault(package, digest) != digest for package, digest in code.items()):
        return None
    document = {
        "format": _FORMAT,
        "arguments": arguments,
        "code": code,
        "python": sys.version,
        "platform": platform.platform(),
        "distributions": _distributions(),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _arguments(request: ConversionRequest, target: str) -> dict[str, Any]:
    """Every field of the request as JSON values, what concerns other targets left out."""
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    own = {"targets": target, "options": request.options_of(target), "model": _model(request.model)}
    return {name: _value(value) for name, value in (fields | own).items() if name not in NOT_IN_KEY}


def _model(model: Any) -> Any:
    """A model's name; of a user's own file the bytes, too, and where its imports and relative paths are looked up."""
    if not (isinstance(model, str) and is_file_model(model)):
        return model
    path, attribute = split_factory(model)
    return [path, str(path.resolve()), attribute, os.getcwd(), sys.path]


def _value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return {"file": value.name, "sha256": sha256_file(value)}
    if isinstance(value, (tuple, list)):
        return [_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _value(item) for key, item in value.items()}
    raise _Unkeyed(type(value).__name__)


def code_digest(package: str) -> str:
    """SHA-256 over names and bytes of all files of a top-level package, data files too, compiled ones not."""
    digest = hashlib.sha256()
    for folder in package_folders(package):
        for path in [Path()] if folder.is_file() else list_files(folder):
            if "__pycache__" not in path.parts:
                digest.update(f"{path.as_posix()} {sha256_file(folder / path)}\n".encode())
    return digest.hexdigest()


def package_folders(package: str) -> list[Path]:
    """Where a top-level package lies: its folders, or the one file of a plain module."""
    spec = importlib.util.find_spec(package)
    assert spec is not None  # it holds an installed converter
    if spec.submodule_search_locations is not None:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [] if spec.origin is None else [Path(spec.origin)]


def _distributions() -> list[str]:
    """ "NAME-VERSION.dist-info" of everything on sys.path; reading the names alone takes a millisecond."""
    found = set()
    for folder in sys.path:
        if folder and Path(folder).is_dir():
            found |= {path.name for path in Path(folder).iterdir() if path.suffix in (".dist-info", ".egg-info")}
    return sorted(found)
