"""Patterns reported to keep a program off the Neural Engine. Each hint names its source.

None of it was measured by us: only a device and Apple's compute plan show where an op runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.mil.package import computes_in

if TYPE_CHECKING:
    from google.protobuf.message import Message

_FP32, _INT32 = 11, 23  # MIL_pb2.DataType
_ADVICE = "Apple's advice for transformers on the Neural Engine, recalled, not checked"
_REPORTED = "third-party reports, not checked"


@dataclass(frozen=True, slots=True)
class Hint:
    """One piece of advice: `applies` looks at an operation and at the value types by name."""

    rule: str
    message: str
    source: str
    applies: Callable[[Message, dict[str, Message]], bool]


def _is(*types: str) -> Callable[[Message, dict[str, Message]], bool]:
    return lambda operation, _: operation.type in types


def _starts(*prefixes: str) -> Callable[[Message, dict[str, Message]], bool]:
    return lambda operation, _: operation.type.startswith(prefixes)


def _computes(data_type: int) -> Callable[[Message, dict[str, Message]], bool]:
    return lambda operation, _: computes_in(operation, data_type)


def _narrow_last_axis(operation: Message, _: dict[str, Message]) -> bool:
    """A rank-4 result whose last axis is 1, as (B, S, C, 1); (B, C, 1, 1) after pooling is as small either way."""
    for output in operation.outputs:
        sizes = [dimension.constant.size for dimension in output.type.tensorType.dimensions]
        if len(sizes) >= 3 and sizes[-1] == 1 and sizes[-2] > 1:
            return True
    return False


def _weight_shape(operation: Message, types: dict[str, Message]) -> list[int]:
    bindings = operation.inputs["weight"].arguments if "weight" in operation.inputs else ()
    declared = types.get(bindings[0].name) if bindings else None
    if declared is None:
        return []
    return [dimension.constant.size for dimension in declared.tensorType.dimensions]


def _wide_kernel(operation: Message, types: dict[str, Message]) -> bool:
    return operation.type == "conv" and max(_weight_shape(operation, types)[2:], default=0) > 13


def _conv3d(operation: Message, types: dict[str, Message]) -> bool:
    return operation.type.startswith("conv") and len(_weight_shape(operation, types)) == 5


HINTS = (
    Hint("engine-gather", "gathering by index", _REPORTED, _starts("gather")),
    Hint(
        "engine-topk",
        "sorting or picking the largest",
        "measured with MLComputePlan in an RF-DETR pull request, not checked",
        _is("topk", "argsort"),
    ),
    Hint(
        "engine-resample",
        "sampling an image at computed positions",
        "coremltools issue 1875, not checked",
        _is("resample", "crop_resize", "affine"),
    ),
    Hint("engine-scatter", "writing by index", _REPORTED, _starts("scatter")),
    Hint("engine-reduce-prod", "product along an axis", _REPORTED, _is("reduce_prod")),
    Hint("engine-recurrent", "recurrent cell", _REPORTED, _is("lstm", "gru", "rnn")),
    Hint("engine-conv3d", "3-D convolution", _REPORTED, _conv3d),
    Hint("engine-wide-kernel", "kernel wider than 13", _REPORTED, _wide_kernel),
    Hint("engine-fp32", "arithmetic in fp32", _REPORTED, _computes(_FP32)),
    Hint("engine-int32", "arithmetic in int32", _REPORTED, _computes(_INT32)),
    Hint("engine-linear", "a 1x1 convolution on (B, C, 1, S) is preferred to a linear layer", _ADVICE, _is("linear")),
    Hint("engine-last-axis", "a last axis of size 1 is padded to 64 bytes", _ADVICE, _narrow_last_axis),
    Hint("engine-reshape", "data moved, not computed", _ADVICE, _is("reshape", "transpose")),
)
