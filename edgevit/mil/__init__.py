"""Core ML programs without a Mac: read them, check them, evaluate them.

`from edgevit.mil import Interpreter` is the public entry; it is loaded when it is asked for, with torch.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Interpreter"]


def __getattr__(name: str) -> Any:
    if name == "Interpreter":
        from edgevit.mil.interpreter import Interpreter

        return Interpreter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
