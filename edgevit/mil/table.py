"""The table of MIL operations, its decorator, and the few conversions that every operation needs.

An operation is a plain function: its parameters carry MIL's names, its defaults are MIL's documented defaults,
it takes torch tensors (strings and lists where MIL has them) and returns one tensor or a tuple. It neither knows
the evaluation mode nor rounds: the interpreter casts each result to the type that the program declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

OPS: dict[str, Callable[..., Any]] = {}


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Enter a function into the table under its own name; a trailing underscore avoids Python's names."""
    OPS[function.__name__.rstrip("_")] = function
    return function


def ints(value: Tensor | None) -> list[int]:
    """A vector parameter as Python integers; None is empty."""
    return [] if value is None else [int(item) for item in value.reshape(-1).tolist()]


def bools(value: Tensor | None, length: int) -> list[bool]:
    """A mask parameter; None is all False."""
    return [False] * length if value is None else [bool(item) for item in value.reshape(-1).tolist()]


def number(value: Tensor | float | int | bool) -> Any:
    """A scalar parameter as a Python number; MIL stores some of them as vectors of one."""
    return value.item() if isinstance(value, Tensor) else value


def last_axis_first(pairs: list[tuple[int, int]]) -> list[int]:
    """(before, after) per axis in the order of F.pad."""
    return [amount for pair in reversed(pairs) for amount in pair]


def axes_of(axes: Tensor | None, rank: int) -> list[int]:
    """Reduction axes, non-negative; None means all."""
    return list(range(rank)) if axes is None else [axis % rank for axis in ints(axes)]


def place(vector: Tensor, axis: int, rank: int) -> Tensor:
    """(n,) -> (1, .., n, .., 1) with n at `axis`, to broadcast along it; scalars stay as they are."""
    if vector.numel() == 1:
        return vector.reshape(())
    return vector.reshape([-1 if dim == axis % rank else 1 for dim in range(rank)])
