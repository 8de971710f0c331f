"""Private names of LiteRT, the package ai-edge-litert. None is loaded before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypedDict

from edgevit.infra.optional_imports import require


class Operator(TypedDict):
    """A node that an interpreter runs: its name, and the indices of its tensors (int32 arrays)."""

    op_name: str
    inputs: Sequence[int]
    outputs: Sequence[int]


def operators(interpreter: Any) -> list[Operator]:
    """The nodes of an interpreter's graph, those that its delegates stand for behind the original ones.

    LiteRT has no public way to them; which of them run in XNNPACK is read from them.
    """
    return interpreter._get_ops_details()


def file_schema() -> ModuleType:
    """The generated classes of the .tflite format; LiteRT ships them without documenting them."""
    return require("ai_edge_litert.schema_py_generated", "tflite")
