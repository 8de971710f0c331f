"""Elementwise arithmetic, comparison, activations, casts and reductions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevit.mil.table import OPS, axes_of, number, op, place

_UNARY = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": F.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_BINARY = {
    "add": torch.add,
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,  # the sign of the divisor, as Python and MIL have it
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.true_divide,
    "sub": torch.sub,
}


def _named_unary(function):
    return lambda x: function(x)


def _named_binary(function):
    return lambda x, y: function(x, y)


# MIL passes operands by name, which torch's functions call differently.
OPS.update({name: _named_unary(function) for name, function in _UNARY.items()})
OPS.update({name: _named_binary(function) for name, function in _BINARY.items()})


@op
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@op
def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@op
def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@op
def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@op
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(x, number(alpha), number(beta))


@op
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.clamp(x, min=number(alpha))


@op
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


@op
def cast(x: Tensor, dtype: str) -> Tensor:
    """Truncate towards zero on the way to integers; any non-zero value is true. Widths are the interpreter's."""
    if dtype == "bool":
        return x != 0
    if dtype.startswith(("int", "uint")) and x.is_floating_point():
        return torch.trunc(x)
    return x


@op
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=number(beta))


@op
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.elu(x, alpha=number(alpha))


@op
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@op
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.leaky_relu(x, number(alpha))


@op
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * x + beta


@op
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, place(alpha, 1, x.ndim) * x)


@op
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * torch.tanh(beta * x)


@op
def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@op
def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(x, number(axis))


@op
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


@op
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return place(alpha, 1, x.ndim) * softplus(place(beta, 1, x.ndim) * x)


@op
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def _quantization_parameter(value: Tensor | None, like: Tensor, axis: Tensor | None) -> Tensor | int:
    """A scale or zero point, scalar or one per slice of `axis`, ready to broadcast against `like`."""
    if value is None:
        return 0
    value = value if value.is_floating_point() else value.to(torch.int32)  # int8 differences leave int8
    return value if value.ndim == 0 else place(value, number(axis if axis is not None else 0), like.ndim)


@op
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    low, high = (0, 255) if output_dtype == "uint8" else (-128, 127)
    steps = torch.round(input / _quantization_parameter(scale, input, axis))
    return torch.clamp(steps + _quantization_parameter(zero_point, input, axis), low, high)


@op
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    steps = input.to(torch.int32) - _quantization_parameter(zero_point, input, axis)
    return steps * _quantization_parameter(scale, input, axis)


@op
def cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    along = number(axis)
    if number(reverse):
        x = x.flip(along)
    total = torch.cumsum(x, along)
    if number(exclusive):
        total = total - x
    return total.flip(along) if number(reverse) else total


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


_REDUCTIONS = {
    "reduce_l1_norm": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(torch.sum(torch.square(x), axes, keepdim=keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keepdim=keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "reduce_mean": lambda x, axes, keep: torch.mean(x if x.is_floating_point() else x.float(), axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "reduce_prod": _prod,
    "reduce_sum": lambda x, axes, keep: torch.sum(x, axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: torch.sum(torch.square(x), axes, keepdim=keep),
}


def _named_reduction(function):
    def reduction(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        return function(x, axes_of(axes, x.ndim), bool(number(keep_dims)))

    return reduction


OPS.update({name: _named_reduction(function) for name, function in _REDUCTIONS.items()})


@op
def reduce_argmax(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    return torch.argmax(x, number(axis), keepdim=bool(number(keep_dims)))


@op
def reduce_argmin(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    return torch.argmin(x, number(axis), keepdim=bool(number(keep_dims)))
