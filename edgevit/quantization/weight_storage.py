"""The option `weight_compression` that every edge target has: how large weights are stored, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgevit.errors import UsageError
from edgevit.spec import Precision

if TYPE_CHECKING:
    from edgevit.contract.manifest import Manifest

UNCOMPRESSED = "none"  # as many bits as the precision has
INT8 = "int8"  # quantized per channel, computed in float; see weight_only.py

MIN_VALUES = 2049  # of a weight to compress: smaller ones save nothing and lose as much accuracy
HALF_FROM_ELEMENTS = 256  # of a constant that fp16 files store as float16; smaller ones (biases, scalars) weigh nothing
LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class WeightStorageOptions:
    """weight_compression: "int8" stores large weights in int8 and computes with them in float; "none" does not."""

    weight_compression: str = field(default=UNCOMPRESSED, metadata={"numeric": True})

    def __post_init__(self) -> None:
        require_kind(self.weight_compression)


def require_kind(kind: str, known: Sequence[str] = (UNCOMPRESSED, INT8)) -> None:
    """Raise UsageError for a compression that a target does not have."""
    if kind not in known:
        raise UsageError(f"unknown weight_compression {kind!r}", fix="one of: " + ", ".join(known))


def require_float(precision: Precision, kind: str) -> None:
    """Raise UsageError for an int8 network whose weights would be compressed again."""
    if precision is Precision.INT8 and kind != UNCOMPRESSED:
        raise UsageError("int8 weights are not compressed again", fix="leave -O weight_compression out")


def recorded_kind(kind: str) -> str:
    """A compression as manifests record it: "" for none."""
    return "" if kind == UNCOMPRESSED else kind


def has_qparams(manifest: Manifest) -> bool:
    """Whether an artifact's file holds quantization parameters: of an int8 network, or of int8 weights alone."""
    return manifest.precision is Precision.INT8 or manifest.compression == INT8
