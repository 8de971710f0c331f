"""The option "weights" that every target has: how large weights are stored, and what it cannot go with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.errors import UsageError
from edgevit.spec import Precision

if TYPE_CHECKING:
    from edgevit.contract.manifest import Manifest

FULL = "full"  # as many bits as the precision says
INT8 = "int8"  # on the grids of int8, computed with in float; see weight_only.py

MIN_VALUES = 2049  # of a weight that is stored in another form: smaller ones save nothing and lose as much


def require_kind(kind: str, known: Sequence[str] = (FULL, INT8)) -> None:
    """Raise UsageError for a form of weights that a target does not have."""
    if kind not in known:
        raise UsageError(f"unknown weights {kind!r}", fix="one of: " + ", ".join(known))


def require_float(precision: Precision, kind: str) -> None:
    """Raise UsageError for weights of an int8 network that shall be compressed once more."""
    if precision is Precision.INT8 and kind != FULL:
        raise UsageError("int8 weights are not compressed again", fix="leave -O weights out")


def has_qparams(manifest: Manifest) -> bool:
    """Whether an artifact's file holds int8 grids: of an int8 network, or of int8 weights alone."""
    return manifest.precision is Precision.INT8 or manifest.compression == INT8
