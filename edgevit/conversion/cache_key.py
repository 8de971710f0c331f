"""What a conversion depends on, as one key: arguments, input files, code, tools and machine; imports none of them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgevit.infra.files import list_files, sha256_file
from edgevit.targets.registry import converter_package

_FORMAT = 2  # of the keys; a new number forgets every cached artifact. 1: nothing was run under phones' settings
_code_in_memory: dict[str, str] = {}  # package -> digest of its files when this process first looked


def conversion_key(target: str, arguments: Mapping[str, Any], files: Iterable[Path]) -> str | None:
    """SHA-256 over everything that decides the artifact of `target`.

    arguments: JSON values; files: read by the conversion, in a fixed order; their names and bytes count.
    The code is every file of edgevit and of the converter's package, the tools are all installed distributions.
    None, which forbids caching, if a file cannot be read, or if code on disk is no longer what this process runs.
    """
    try:
        code = {package: code_digest(package) for package in ("edgevit", converter_package(target))}
        inputs = [[path.name, sha256_file(path)] for path in files]
    except OSError:
        return None
    if any(_code_in_memory.setdefault(package, digest) != digest for package, digest in code.items()):
        return None
    document = {
        "format": _FORMAT,
        "target": target,
        "arguments": arguments,
        "files": inputs,
        "code": code,
        "python": sys.version,
        "platform": platform.platform(),
        "distributions": _distributions(),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=repr).encode()).hexdigest()


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
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)]
    return [Path(folder) for folder in spec.submodule_search_locations]


def _distributions() -> list[str]:
    """ "NAME-VERSION.dist-info" of everything on sys.path; reading the names alone takes a millisecond."""
    found = set()
    for folder in sys.path:
        if folder and Path(folder).is_dir():
            found |= {path.name for path in Path(folder).iterdir() if path.suffix in (".dist-info", ".egg-info")}
    return sorted(found)
