"""Private names of Python's import system."""

from __future__ import annotations

from importlib import _bootstrap, _bootstrap_external
from types import CodeType, FrameType
from typing import Any

# Which code runs is seen in stack frames alone: import hooks see neither modules that are loaded nor files that are
# read through the standard loaders.
_importing: Any = _bootstrap  # its private names are in no type stub
LOAD_MODULE: CodeType = _importing._load_unlocked.__code__  # runs for every module that an import statement loads
READ_CODE: CodeType = _bootstrap_external.FileLoader.get_data.__code__  # reads the file of a module


def loaded_file(loading: FrameType) -> str:
    """The file that a frame of LOAD_MODULE loads; "<frozen importlib>" for what has none: namespaces, built-ins."""
    spec = loading.f_locals.get("spec")
    return str(spec.origin) if spec is not None and spec.has_location else "<frozen importlib>"
