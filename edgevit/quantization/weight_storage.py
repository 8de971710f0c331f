"""The option `weight_compression` that every edge target has: how large weights are stored, and what that excludes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.errors import UsageError
from edgevit.spec import Precision

if TYPE_CHECKING:
    from edgevit.contract.manifest import Manifest

UNCOMPRESSED = "none"  # as many bits as the precision says
INT8 = "int8"  # with the scales of int8, computed with in float; see weight_only.py

MIN_VALUES = 2049  # of a weight that is stored in another form: smaller ones save nothing and lose as much


def require_kind(kind: str, known: Sequence[str] = (UNCOMPRESSED, INT8)) -> None:
    """Raise UsageError for a compression that a target does not have."""
    if kind not in known:
        raise UsageError(f"unknown weight_compression {kind!r}", fix="one of: " + ", ".join(known))


def require_float(precision: Precision, kind: str) -> None:
    """Raise UsageError for weights of an int8 network that shall be compressed once more."""
    if precision is Precision.INT8 and kind != UNCOMPRESSED:
        raise UsageError("int8 weights are not compressed again", fix="leave -O weight_compression out")


def has_qparams(manifest: Manifest) -> bool:
    """Whether an artifact's file holds int8 quantization parameters: of an int8 network, or of int8 weights alone."""
    return manifest.precision is Precision.INT8 or manifest.compression == INT8
