"""Imports optional libraries, and says how to get them when they are absent."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from types import ModuleType

from edgevit.errors import MissingDependency


def require(module: str, extra: str) -> ModuleType:
    """Import `module`; MissingDependency naming the extra that brings it if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{extra} needs the Python package {(error.name or module).partition('.')[0]}, which is not installed",
            fix=f'pip install "edgevit[{extra}]"',
        ) from error


def version(distribution: str) -> str | None:
    """Installed version of a distribution, None if it is absent."""
    try:
        return distribution_version(distribution)
    except PackageNotFoundError:
        return None
