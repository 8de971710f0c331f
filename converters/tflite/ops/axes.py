"""Ops that rearrange axes: transposes relabel, the others move as little as they can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converters.tflite.builder import Builder, Unsupported
from converters.tflite.layout import Shape, Value, permuted, stored
from converters.tflite.registry import lowers

if TYPE_CHECKING:
    import torch


@lowers("alias.default", "clone.default", "contiguous.default", "detach.default", "lift_fresh_copy.default")
def _same(b: Builder, x: Value, memory_format: Any = None) -> Value:
    return x


@lowers("view.default", "reshape.default", "_unsafe_view.default")
def _view(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    known = -math.prod(shape)
    return b.reshaped(x, tuple(math.prod(x.shape) // known if size == -1 else size for size in shape))


@lowers("flatten.using_ints", "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default")
def _reshape_to_result(b: Builder, x: Value, *_: Any) -> Value:
    return b.reshaped(x, tuple(b.lowered.meta["val"].shape))


@lowers("permute.default")
def _permute(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    return permuted(x, [axis % len(x.shape) for axis in axes])


@lowers("transpose.int")
def transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    """Swap two logical axes; no data moves."""
    axes = list(range(len(x.shape)))
    axes[first], axes[second] = axes[second], axes[first]
    return permuted(x, axes)


@lowers("t.default")
def _t(b: Builder, x: Value) -> Value:
    return permuted(x, list(reversed(range(len(x.shape)))))


@lowers("expand.default")
def _expand(b: Builder, x: Value, sizes: Sequence[int]) -> Value:
    import torch

    ones = torch.ones(()).expand(tuple(b.lowered.meta["val"].shape))
    return x if ones.shape == x.shape else b.binary("MUL", x, ones.contiguous())


@lowers("cat.default")
def _cat(b: Builder, tensors: Sequence[Value | torch.Tensor], dim: int = 0) -> Value:
    shape = tuple(b.lowered.meta["val"].shape)
    order = b.common_order(list(tensors), len(shape))
    inputs = [b.relaid(x, order).tensor if isinstance(x, Value) else b.laid(x, order) for x in tensors]
    options = {"axis": order.index(dim % len(shape))}
    return Value(b.emit("CONCATENATION", inputs, stored(shape, order), options), shape, order)


@lowers("slice.Tensor")
def sliced(
    b: Builder, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """x[start:end:step] along one axis."""
    dim %= len(x.shape)
    picked = range(*slice(start, end, step).indices(x.shape[dim]))
    shape = (*x.shape[:dim], len(picked), *x.shape[dim + 1 :])
    if shape == x.shape:
        return x
    if step != 1:
        return _every(b, x, dim, picked, shape)
    begin = [picked.start if axis == dim else 0 for axis in x.order]
    bounds = [b.integers(*begin), b.integers(*stored(shape, x.order))]
    return Value(b.emit("SLICE", [x.tensor, *bounds], stored(shape, x.order)), shape, x.order)


def _every(b: Builder, x: Value, dim: int, picked: range, shape: Shape) -> Value:
    """Every step-th element of an axis: XNNPACK has no strides in slices, so the axis is split by the step first."""
    step = picked.step
    if picked.start >= step or len(picked) * step != x.shape[dim]:
        raise Unsupported(f"a step of {step} through {x.shape[dim]} elements from element {picked.start}")
    at = x.order.index(dim)
    before, after = math.prod(x.stored_shape[:at]), math.prod(x.stored_shape[at + 1 :])
    split, taken = (before, len(picked), step, after), (before, len(picked), 1, after)
    tensor = b.restored(x.tensor, x.stored_shape, split)
    tensor = b.emit("SLICE", [tensor, b.integers(0, 0, picked.start, 0), b.integers(*taken)], taken)
    return Value(b.restored(tensor, taken, stored(shape, x.order)), shape, x.order)


@lowers("select.int")
def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    index %= x.shape[dim]
    return _reshape_to_result(b, sliced(b, x, dim, index, index + 1))


@lowers("split_with_sizes.default")
def _split_with_sizes(b: Builder, x: Value, sizes: Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(sliced(b, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True))


@lowers("split.Tensor")
def _split(b: Builder, x: Value, size: int, dim: int = 0) -> tuple[Value, ...]:
    total = x.shape[dim]
    return _split_with_sizes(b, x, [min(size, total - start) for start in range(0, total, size)], dim)


@lowers("chunk.default")
def _chunk(b: Builder, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return _split(b, x, -(-x.shape[dim] // chunks), dim)


@lowers("constant_pad_nd.default", "pad.default")
def _pad(b: Builder, x: Value, pad: Sequence[int], mode: Any = 0.0, value: float | None = None) -> Value:
    if isinstance(mode, str) and mode != "constant":
        raise Unsupported(f"padding mode {mode!r}")
    fill = value if isinstance(mode, str) else mode
    amounts = [(0, 0)] * len(x.shape)
    for i in range(len(pad) // 2):  # torch counts from the last axis
        amounts[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    if min(pad) < 0:
        raise Unsupported(f"negative padding {list(pad)}")
    return padded(b, x, amounts, fill or 0.0)


def padded(b: Builder, x: Value, amounts: Sequence[tuple[int, int]], fill: float = 0.0) -> Value:
    """`x` with (before, after) elements of `fill` added to each logical axis."""
    import numpy as np

    shape = tuple(size + before + after for size, (before, after) in zip(x.shape, amounts, strict=True))
    paddings = b.constant(np.array([amounts[axis] for axis in x.order], np.int32))
    inputs = [x.tensor, paddings] + ([b.constant(np.float32(fill).reshape(1))] if fill else [])
    return Value(b.emit("PADV2" if fill else "PAD", inputs, stored(shape, x.order)), shape, x.order)
