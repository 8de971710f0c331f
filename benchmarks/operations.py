"""Time per kind of operation: the kinds, and how timed operations add up to a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAST_TAPS = 25  # the largest depthwise kernel that XNNPACK has a fast path for
KINDS = (
    "1x1 convolutions",
    f"depthwise, at most {FAST_TAPS} taps",
    f"depthwise, more than {FAST_TAPS} taps",
    "other convolutions",
    "matrix products",
    "elementwise",
    "softmax",
    "transposes and copies",
    "rest",
)
POINTWISE, DEPTHWISE, WIDE_DEPTHWISE, CONVOLUTION, PRODUCT, ELEMENTWISE, SOFTMAX, COPY, REST = KINDS


@dataclass(frozen=True, slots=True)
class Timed:
    """`count` equal operations of one network, each `ms` long."""

    kind: str
    name: str  # "depthwise 7x7 dilation 3, 1x28x28x32"
    count: int
    ms: float


def convolution_kind(kernel: tuple[int, int], *, depthwise: bool) -> str:
    """The kind of a convolution with a kernel of (height, width)."""
    taps = kernel[0] * kernel[1]
    if depthwise:
        return DEPTHWISE if taps <= FAST_TAPS else WIDE_DEPTHWISE
    return POINTWISE if taps == 1 else CONVOLUTION


def add_up(operations: Iterable[Timed], whole_ms: float, method: str) -> dict[str, Any]:
    """Milliseconds and counts per kind, the ten costliest groups, and the whole network timed beside them."""
    operations = list(operations)
    kinds = {
        kind: {"count": sum(o.count for o in own), "ms": sum(o.count * o.ms for o in own)}
        for kind in KINDS
        if (own := [o for o in operations if o.kind == kind])
    }
    costly = sorted(operations, key=lambda o: -o.count * o.ms)[:10]
    return {
        "method": method,
        "whole_ms": whole_ms,
        "sum_ms": sum(kind["ms"] for kind in kinds.values()),
        "kinds": kinds,
        "costliest": [{"name": o.name, "count": o.count, "ms": o.count * o.ms} for o in costly],
    }


def job_parser(description: str) -> argparse.ArgumentParser:
    """What every module takes that times operations: the files, and how often; `compare_runtimes` writes it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--report", type=Path, required=True, help='{"operations": [...]} in the order of the files')
    for option in ("threads", "rounds", "runs"):
        parser.add_argument(f"--{option}", type=int, required=True)
    return parser
