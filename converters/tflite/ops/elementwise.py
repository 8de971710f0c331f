"""Ops that work element by element: activations and arithmetic."""

from __future__ import annotations

from typing import Any

from converters.tflite.builder import Builder, Unsupported
from converters.tflite.layout import Value
from converters.tflite.registry import Handler, lowers


def _unary(name: str) -> Handler:
    return lambda b, x: b.unary(name, x)


def _binary(name: str) -> Handler:
    return lambda b, x, y: b.binary(name, x, y)


lowers("abs.default")(_unary("ABS"))
lowers("exp.default")(_unary("EXP"))
lowers("hardswish.default")(_unary("HARD_SWISH"))
lowers("log.default")(_unary("LOG"))
lowers("neg.default")(_unary("NEG"))
lowers("rsqrt.default")(_unary("RSQRT"))
lowers("sigmoid.default")(_unary("LOGISTIC"))
lowers("sqrt.default")(_unary("SQRT"))
lowers("tanh.default")(_unary("TANH"))
lowers("div.Tensor", "div.Scalar")(_binary("DIV"))
lowers("maximum.default")(_binary("MAXIMUM"))
lowers("minimum.default")(_binary("MINIMUM"))
lowers("mul.Tensor", "mul.Scalar")(_binary("MUL"))
lowers("pow.Tensor_Tensor")(_binary("POW"))


@lowers("elu.default")
def _elu(b: Builder, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if (alpha, scale, input_scale) != (1, 1, 1):
        raise Unsupported("ELU with another slope or scale than 1")
    return b.unary("ELU", x)


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


@lowers("hardtanh.default")
def _hardtanh(b: Builder, x: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return _clamp(b, x, low, high)


@lowers("clamp.default")
def _clamp(b: Builder, x: Value, low: float | None = None, high: float | None = None) -> Value:
    known: dict[tuple[float | None, float | None], str] = {(0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1", (0, None): "RELU"}
    if (low, high) in known:
        return b.activated(known[low, high], x)
    if low is not None:
        x = b.binary("MAXIMUM", x, float(low))
    return x if high is None else b.binary("MINIMUM", x, float(high))
