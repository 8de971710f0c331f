"""Ops that sum over axes: means, normalisations, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converters.tflite.builder import Builder
from converters.tflite.layout import Value, stored, with_last, without
from converters.tflite.registry import lowers

if TYPE_CHECKING:
    import torch


def reduced(b: Builder, name: str, x: Value, dims: Sequence[int] | None, keepdim: bool) -> Value:
    """MEAN, SUM or REDUCE_MAX over logical axes; None or none means all."""
    rank = len(x.shape)
    axes = sorted({dim % rank for dim in dims or range(rank)})
    order = x.order if keepdim else without(x.order, axes)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    shape = kept if keepdim else tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    inputs = [x.tensor, b.integers(*sorted(x.order.index(axis) for axis in axes))]
    return Value(b.emit(name, inputs, stored(shape, order), {"keepDims": keepdim}), shape, order)


@lowers("mean.dim")
def _mean(b: Builder, x: Value, dims: Sequence[int] | None, keepdim: bool = False) -> Value:
    return reduced(b, "MEAN", x, dims, keepdim)


@lowers("sum.dim_IntList")
def _sum(b: Builder, x: Value, dims: Sequence[int] | None, keepdim: bool = False) -> Value:
    return reduced(b, "SUM", x, dims, keepdim)


@lowers("amax.default")
def _amax(b: Builder, x: Value, dims: Sequence[int] = (), keepdim: bool = False) -> Value:
    return reduced(b, "REDUCE_MAX", x, dims, keepdim)


@lowers("softmax.int", "_softmax.default")
def softmax(b: Builder, x: Value, dim: int, _: Any = None) -> Value:
    """Softmax over one logical axis."""
    dim %= len(x.shape)
    if x.order[-1] != dim:  # the operator knows the innermost axis only
        x = b.relaid(x, with_last(x.order, dim))
    return b.unary("SOFTMAX", x, {"beta": 1.0})


@lowers("layer_norm.default")
def _layer_norm(
    b: Builder, x: Value, sizes: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, _: Any = None
) -> Value:
    y = _normalized(b, x, range(len(x.shape) - len(sizes), len(x.shape)), eps)
    return _scaled(b, y, weight, bias)


@lowers("native_layer_norm.default")
def _native_layer_norm(b: Builder, x: Value, sizes: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Value]:
    return (_layer_norm(b, x, sizes, weight, bias, eps),)


@lowers("group_norm.default")
def _group_norm(
    b: Builder, x: Value, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, _: Any = None
) -> Value:
    count, channels, *sizes = x.shape
    split = b.reshaped(x, (count, groups, channels // groups, *sizes))
    y = b.reshaped(_normalized(b, split, range(2, len(split.shape)), eps), x.shape)
    return _scaled(b, y, *(t if t is None else t.reshape(-1, *[1] * len(sizes)) for t in (weight, bias)))


@lowers("_native_batch_norm_legit_no_training.default")
def _batch_norm(
    b: Builder, x: Value, weight: Any, bias: Any, mean: torch.Tensor, var: torch.Tensor, _: float, eps: float
) -> tuple[Value]:
    scale = (var.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - mean.double() * scale
    column = (-1, *[1] * (len(x.shape) - 2))
    return (_scaled(b, x, scale.reshape(column), shift.reshape(column)),)


def _normalized(b: Builder, x: Value, axes: Sequence[int], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) over logical `axes`, the biased variance."""
    centred = b.binary("SUB", x, reduced(b, "MEAN", x, list(axes), keepdim=True))
    variance = reduced(b, "MEAN", b.binary("MUL", centred, centred), list(axes), keepdim=True)
    return b.binary("MUL", centred, b.unary("RSQRT", b.binary("ADD", variance, eps)))


def _scaled(b: Builder, x: Value, weight: Any, bias: Any) -> Value:
    if weight is not None:
        x = b.binary("MUL", x, weight)
    return x if bias is None else b.binary("ADD", x, bias)
