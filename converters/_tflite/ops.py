"""One function per ATen op: what it becomes in a .tflite file. `HANDLERS` is the list of ops that convert.

A handler gets the builder and the node's arguments: Value for computed tensors, torch.Tensor for constants.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from converters._tflite.builder import Builder, Unsupported
from converters._tflite.layout import (
    CHANNELS_LAST,
    Order,
    Shape,
    Value,
    identity,
    moves_data,
    permuted,
    stored,
    with_last,
    without,
)

if TYPE_CHECKING:
    import torch

SAME, VALID = 0, 1  # of the schema's Padding
Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def lowers(*targets: str) -> Callable[[Handler], Handler]:
    """Register a handler for ATen targets ("conv2d.default")."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update({f"aten.{target}": handler for target in targets})
        return handler

    return register


def handle(builder: Builder, target: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run the handler of `target`. Raises Unsupported where the op has a form that it does not know."""
    handler = HANDLERS[target]
    try:
        inspect.signature(handler).bind(builder, *args, **kwargs)
    except TypeError as error:
        raise Unsupported(f"its arguments are not understood ({error})") from error
    return handler(builder, *args, **kwargs)


# Element by element.

for _target, _name in {
    "abs.default": "ABS",
    "elu.default": "ELU",
    "exp.default": "EXP",
    "hardswish.default": "HARD_SWISH",
    "log.default": "LOG",
    "neg.default": "NEG",
    "rsqrt.default": "RSQRT",
    "sigmoid.default": "LOGISTIC",
    "sqrt.default": "SQRT",
    "tanh.default": "TANH",
}.items():
    lowers(_target)(lambda b, x, name=_name: b.unary(name, x))

for _target, _name in {
    "div.Tensor": "DIV",
    "maximum.default": "MAXIMUM",
    "minimum.default": "MINIMUM",
    "mul.Tensor": "MUL",
    "mul.Scalar": "MUL",
    "div.Scalar": "DIV",
    "pow.Tensor_Tensor": "POW",
}.items():
    lowers(_target)(lambda b, x, y, name=_name: b.binary(name, x, y))


@lowers("add.Tensor", "add.Scalar")
def _add(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    return b.binary("ADD", x, y if alpha == 1 else _times(b, y, alpha))


@lowers("sub.Tensor", "sub.Scalar")
def _sub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    return b.binary("SUB", x, y if alpha == 1 else _times(b, y, alpha))


@lowers("rsub.Scalar", "rsub.Tensor")
def _rsub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    return _sub(b, y, x, alpha)


def _times(b: Builder, x: Any, factor: float) -> Any:
    return b.binary("MUL", x, factor) if isinstance(x, Value) else x * factor


@lowers("reciprocal.default")
def _reciprocal(b: Builder, x: Value) -> Value:
    return b.binary("DIV", 1.0, x)


@lowers("square.default")
def _square(b: Builder, x: Value) -> Value:
    return b.binary("MUL", x, x)


@lowers("pow.Tensor_Scalar")
def _pow(b: Builder, x: Value, exponent: float) -> Value:
    if exponent == 2:
        return _square(b, x)
    roots = {0.5: "SQRT", -0.5: "RSQRT"}
    return b.unary(roots[exponent], x) if exponent in roots else b.binary("POW", x, float(exponent))


@lowers("gelu.default")
def _gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    return b.unary("GELU", x, {"approximate": approximate == "tanh"})


@lowers("silu.default")
def _silu(b: Builder, x: Value) -> Value:
    return b.binary("MUL", x, b.unary("LOGISTIC", x))


@lowers("hardsigmoid.default")
def _hardsigmoid(b: Builder, x: Value) -> Value:
    return b.binary("MUL", b.unary("RELU6", b.binary("ADD", x, 3.0)), 1 / 6)


@lowers("leaky_relu.default")
def _leaky_relu(b: Builder, x: Value, negative_slope: float = 0.01) -> Value:
    return b.unary("LEAKY_RELU", x, {"alpha": negative_slope})


@lowers("relu.default")
def _relu(b: Builder, x: Value) -> Value:
    return b.activated("RELU", x)


@lowers("relu6.default")
def _relu6(b: Builder, x: Value) -> Value:
    return b.activated("RELU6", x)


@lowers("hardtanh.default", "clamp.default")
def _clamp(b: Builder, x: Value, low: float | None = None, high: float | None = None) -> Value:
    known = {(0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1", (0, None): "RELU"}
    if (low, high) in known:
        return b.activated(known[low, high], x)
    if low is not None:
        x = b.binary("MAXIMUM", x, float(low))
    return x if high is None else b.binary("MINIMUM", x, float(high))


@lowers("hardtanh_default")
def _unused(b: Builder) -> None:
    raise AssertionError
