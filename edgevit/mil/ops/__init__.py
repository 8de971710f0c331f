"""All MIL operations that the interpreter evaluates, by name: `OPS["conv"](x=..., weight=..., ...)`.

The functions live by kind in this package's modules; importing them fills the one table. Names, defaults and meaning
follow Apple's published MIL operation set (iOS15 to iOS18); a version that only adds parameters shares a function.
Control flow, states and `const` need the interpreter's environment and are evaluated there.
"""

from __future__ import annotations

from edgevit.mil.ops import constexpr, elementwise, image, index, nn, shape, state  # noqa: F401, they fill OPS
from edgevit.mil.table import OPS

__all__ = ["OPS"]
