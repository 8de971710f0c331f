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


def _unary(name: str) -> Handler:
    return lambda b, x: b.unary(name, x)


def _binary(name: str) -> Handler:
    return lambda b, x, y: b.binary(name, x, y)


lowers("abs.default")(_unary("ABS"))
lowers("elu.default")(_unary("ELU"))
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
    known = {(0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1", (0, None): "RELU"}
    if (low, high) in known:
        return b.activated(known[low, high], x)
    if low is not None:
        x = b.binary("MAXIMUM", x, float(low))
    return x if high is None else b.binary("MINIMUM", x, float(high))


# Axes: transposes relabel, the rest moves as little as it can.


@lowers("alias.default", "clone.default", "contiguous.default", "detach.default", "lift_fresh_copy.default")
def _same(b: Builder, x: Value, memory_format: Any = None) -> Value:
    return x


@lowers("view.default", "reshape.default", "_unsafe_view.default")
def _view(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    known = -math.prod(shape)
    return b.reshaped(x, tuple(math.prod(x.shape) // known if size == -1 else size for size in shape))


@lowers("flatten.using_ints", "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default")
def _reshape_to_result(b: Builder, x: Value, *_: Any) -> Value:
    return b.reshaped(x, tuple(b.node.meta["val"].shape))


@lowers("permute.default")
def _permute(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    return permuted(x, [axis % len(x.shape) for axis in axes])


@lowers("transpose.int")
def _transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    axes = list(range(len(x.shape)))
    axes[first], axes[second] = axes[second], axes[first]
    return permuted(x, axes)


@lowers("t.default")
def _t(b: Builder, x: Value) -> Value:
    return permuted(x, list(reversed(range(len(x.shape)))))


@lowers("expand.default")
def _expand(b: Builder, x: Value, sizes: Sequence[int]) -> Value:
    import torch

    ones = torch.ones(()).expand(tuple(b.node.meta["val"].shape))
    return x if ones.shape == x.shape else b.binary("MUL", x, ones.contiguous())


@lowers("cat.default")
def _cat(b: Builder, tensors: Sequence[Value | torch.Tensor], dim: int = 0) -> Value:
    shape = tuple(b.node.meta["val"].shape)
    order = b.common_order(list(tensors), len(shape))
    inputs = [b.relaid(x, order).tensor if isinstance(x, Value) else b.laid(x, order) for x in tensors]
    options = {"axis": order.index(dim % len(shape))}
    return Value(b.emit("CONCATENATION", inputs, stored(shape, order), options), shape, order)


@lowers("slice.Tensor")
def _slice(b: Builder, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    dim %= len(x.shape)
    picked = range(*slice(start, end, step).indices(x.shape[dim]))
    shape = x.shape[:dim] + (len(picked),) + x.shape[dim + 1 :]
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
    return _reshape_to_result(b, _slice(b, x, dim, index, index + 1))


@lowers("split_with_sizes.default")
def _split_with_sizes(b: Builder, x: Value, sizes: Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(_slice(b, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True))


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


# Sums over axes.


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
def _softmax(b: Builder, x: Value, dim: int, _: Any = None) -> Value:
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


# Products.


@lowers("linear.default")
def linear(b: Builder, x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Value:
    """x (..., I), weight (O, I) -> (..., O): FULLY_CONNECTED over the innermost axis."""
    if not _constant(weight) or not _constant(bias):
        raise Unsupported("a weight that is computed")
    last = len(x.shape) - 1
    if x.order[-1] != last:
        x = b.relaid(x, with_last(x.order, last))
    shape = x.shape[:-1] + (weight.shape[0],)
    inputs = [x.tensor, b.laid(weight, (0, 1)), _bias(b, bias, weight.shape[0])]
    tensor = b.emit("FULLY_CONNECTED", inputs, stored(shape, x.order), {"keepNumDims": len(shape) != 2})
    return Value(tensor, shape, x.order)


@lowers("addmm.default")
def _addmm(b: Builder, bias: torch.Tensor, x: Value, weight: torch.Tensor) -> Value:
    if not _constant(weight):
        raise Unsupported("a weight that is computed")
    return linear(b, x, weight.T, bias)


@lowers("bmm.default", "matmul.default", "mm.default")
def matmul(b: Builder, left: Value | torch.Tensor, right: Value | torch.Tensor) -> Value:
    """left (..., M, K) @ right (..., K, N), either as it lies: the operator can take its second operand transposed.

    The product is made as it is, or as its transpose (right^T @ left^T) with the axes relabelled: whichever moves
    fewer elements, counting those of a softmax that follows.
    """
    if isinstance(left, Value) and _constant(right) and right.dim() == 2:
        return linear(b, left, right.T)
    left, right = b.value(left), b.value(right)
    rank = len(left.shape)
    if rank != len(right.shape) or rank < 2 or left.shape[:-2] != right.shape[:-2]:
        raise Unsupported(f"a product of {left.shape} and {right.shape}")
    shape = left.shape[:-1] + right.shape[-1:]
    straight, swapped = identity(rank), identity(rank)[:-2] + (rank - 1, rank - 2)
    wanted = _softmax_axis(b.node, rank)

    def elements_moved(first: Value, first_order: Order, second: Value, product_order: Order) -> int:
        moves = math.prod(first.shape) * moves_data(first.shape, first.order, first_order)
        moves += math.prod(second.shape) * all(moves_data(second.shape, second.order, o) for o in (straight, swapped))
        return moves + math.prod(shape) * (wanted not in (None, product_order[-1]))

    plain = elements_moved(left, straight, right, straight)
    turned = elements_moved(right, swapped, left, swapped)
    if plain <= turned:
        return Value(_product(b, left, straight, right, swapped, stored(shape, straight)), shape, straight)
    return Value(_product(b, right, swapped, left, straight, stored(shape, swapped)), shape, swapped)


def _product(b: Builder, first: Value, order: Order, second: Value, turned: Order, shape: Shape) -> int:
    """BATCH_MATMUL of `first` stored under `order` and `second`, which may lie under `turned` (then adjY) or not."""
    plain = turned[:-2] + (turned[-1], turned[-2])
    adjoint = not moves_data(second.shape, second.order, turned) and moves_data(second.shape, second.order, plain)
    inputs = [b.relaid(first, order).tensor, b.relaid(second, turned if adjoint else plain).tensor]
    return b.emit("BATCH_MATMUL", inputs, shape, {"adjX": False, "adjY": adjoint})


def _softmax_axis(node: Any, rank: int) -> int | None:
    """Logical axis of the node's result that a softmax behind it runs over; None if there is none."""
    axes = list(range(rank))
    while len(node.users) == 1:
        (node,) = node.users
        if str(node.target) == "aten.transpose.int":
            first, second = node.args[1:]
            axes[first], axes[second] = axes[second], axes[first]
        elif str(node.target) in ("aten.softmax.int", "aten._softmax.default"):
            return axes[node.args[1]]
        elif str(node.target) not in ("aten.mul.Tensor", "aten.div.Tensor", "aten.add.Tensor", "aten.clone.default"):
            return None
    return None


@lowers("scaled_dot_product_attention.default")
def _attention(
    b: Builder, query: Value, key: Value, value: Value, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    if causal or enable_gqa:
        raise Unsupported("causal or grouped-query attention")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = matmul(b, b.binary("MUL", query, factor), _transpose(b, key, -2, -1))
    if mask is not None:
        scores = b.binary("ADD", scores, mask)
    return matmul(b, _softmax(b, scores, -1), value)


# Maps: these operators want them channels-last.


@lowers("conv2d.default")
def conv2d(
    b: Builder, x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Value:  # fmt: skip
    """x (N, I, H, W), weight (O, I / groups, kH, kW) -> (N, O, H', W')."""
    if not _constant(weight) or not _constant(bias):
        raise Unsupported("a weight that is computed")
    shape = tuple(b.node.meta["val"].shape)
    stride, dilation = _pair(stride), _pair(dilation)
    kernel = tuple(weight.shape[2:])
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    x, scheme = _windowed(b, x, shape, extent, stride, _conv_padding(padding, extent))
    options = _strides(stride, scheme) | {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    if groups == x.shape[1] and groups > 1:
        name, filters = "DEPTHWISE_CONV_2D", b.laid(weight.transpose(0, 1), CHANNELS_LAST)  # (1, kH, kW, O)
        options["depthMultiplier"] = weight.shape[0] // groups
    else:
        name, filters = "CONV_2D", b.laid(weight, CHANNELS_LAST)  # (O, kH, kW, I / groups)
    inputs = [x.tensor, filters, _bias(b, bias, weight.shape[0])]
    return Value(b.emit(name, inputs, stored(shape, CHANNELS_LAST), options), shape, CHANNELS_LAST)


@lowers("convolution.default")
def _convolution(
    b: Builder, x: Value, weight: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    if transposed:
        return _conv_transpose2d(b, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv2d(b, x, weight, bias, stride, padding, dilation, groups)


@lowers("conv_transpose2d.input")
def _conv_transpose2d(
    b: Builder, x: Value, weight: torch.Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Value:  # fmt: skip
    """x (N, I, H, W), weight (I, O, kH, kW) -> (N, O, H', W'): the full result, cropped by the padding."""
    if groups != 1 or _pair(dilation) != (1, 1) or _pair(output_padding) != (0, 0) or len(x.shape) != 4:
        raise Unsupported("a transposed convolution with groups, dilation or output padding")
    stride, padding = _pair(stride), _pair(padding)
    x = b.relaid(x, CHANNELS_LAST)
    sizes = [(size - 1) * s + k for size, s, k in zip(x.shape[2:], stride, weight.shape[2:], strict=True)]
    shape = (x.shape[0], weight.shape[1], *sizes)
    filters = b.laid(weight.transpose(0, 1), CHANNELS_LAST)  # (O, kH, kW, I)
    inputs = [b.integers(*stored(shape, CHANNELS_LAST)), filters, x.tensor, _bias(b, bias, shape[1])]
    tensor = b.emit("TRANSPOSE_CONV", inputs, stored(shape, CHANNELS_LAST), _strides(stride, VALID))
    result = Value(tensor, shape, CHANNELS_LAST)
    for axis, amount in zip((2, 3), padding, strict=True):
        result = _slice(b, result, axis, amount, result.shape[axis] - amount)
    return result


@lowers("max_pool2d.default")
def _max_pool2d(
    b: Builder, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    if ceil_mode or _pair(dilation) != (1, 1):
        raise Unsupported("max pooling with dilation or ceil_mode")
    return _pooled(b, "MAX_POOL_2D", x, _pair(kernel), _pair(stride or kernel), _pair(padding), float("-inf"))


@lowers("max_pool2d_with_indices.default")
def _max_pool2d_with_indices(b: Builder, x: Value, *args: Any) -> tuple[Value]:
    return (_max_pool2d(b, x, *args),)


@lowers("avg_pool2d.default")
def _avg_pool2d(
    b: Builder, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Value:  # fmt: skip
    padding = _pair(padding)
    if ceil_mode or divisor_override or (padding != (0, 0) and not count_include_pad):
        raise Unsupported("average pooling with ceil_mode, a divisor, or padding that is not counted")
    if padding != (0, 0):  # explicit zeros count; the operator's own padding would not
        x = padded(b, x, [(0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2])
    return _pooled(b, "AVERAGE_POOL_2D", x, _pair(kernel), _pair(stride or kernel), (0, 0), 0.0)


@lowers("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(b: Builder, x: Value, size: Any) -> Value:
    size = _pair(size)
    if size == (1, 1):
        return reduced(b, "MEAN", x, [-2, -1], keepdim=True)
    if any(whole % part for whole, part in zip(x.shape[-2:], size, strict=True)):
        raise Unsupported(f"adaptive pooling of {x.shape[-2:]} to {size}, which are not multiples")
    kernel = tuple(whole // part for whole, part in zip(x.shape[-2:], size, strict=True))
    return _pooled(b, "AVERAGE_POOL_2D", x, kernel, kernel, (0, 0), 0.0)


def _pooled(b: Builder, name: str, x: Value, kernel: Any, stride: Any, padding: Any, fill: float) -> Value:
    shape = tuple(b.node.meta["val"][0].shape if isinstance(b.node.meta["val"], tuple) else b.node.meta["val"].shape)
    if b.never_negative(x):
        fill = 0.0  # XNNPACK pads with zeros only, and no maximum notices them here
    x, scheme = _windowed(b, x, shape, kernel, stride, padding, fill)
    options = _strides(stride, scheme) | {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    return Value(b.emit(name, [x.tensor], stored(shape, CHANNELS_LAST), options), shape, CHANNELS_LAST)


@lowers("upsample_bilinear2d.vec", "upsample_bilinear2d.default")
def _upsample_bilinear(b: Builder, x: Value, size: Any, align_corners: bool, *_: Any) -> Value:
    options = {"alignCorners": align_corners, "halfPixelCenters": not align_corners}
    return _resized(b, "RESIZE_BILINEAR", x, options)


@lowers("upsample_nearest2d.vec", "upsample_nearest2d.default")
def _upsample_nearest(b: Builder, x: Value, size: Any, *_: Any) -> Value:
    return _resized(b, "RESIZE_NEAREST_NEIGHBOR", x, {})


def _resized(b: Builder, name: str, x: Value, options: dict[str, bool]) -> Value:
    scales = [s for s in b.node.args[2:] if isinstance(s, (list, tuple))] or [()]
    shape = tuple(b.node.meta["val"].shape)
    if any(size * s != new for size, s, new in zip(x.shape[2:], scales[0], shape[2:], strict=False)):
        raise Unsupported(f"resizing {x.shape[2:]} by {scales[0]}, which gives no whole size")
    x = b.relaid(x, CHANNELS_LAST)
    tensor = b.emit(name, [x.tensor, b.integers(*shape[2:])], stored(shape, CHANNELS_LAST), options)
    return Value(tensor, shape, CHANNELS_LAST)


@lowers("pixel_shuffle.default")
def _pixel_shuffle(b: Builder, x: Value, factor: int) -> Value:
    """(N, C r r, H, W) -> (N, C, H r, W r). DEPTH_TO_SPACE counts channels as (r, r, C), ATen as (C, r, r)."""
    x = b.relaid(x, CHANNELS_LAST)
    count, channels, height, width = x.shape
    kept = channels // factor**2
    split = (count * height, width, kept, factor, factor)
    value = Value(b.restored(x.tensor, x.stored_shape, split), split, identity(5))
    value = b.relaid(value, (0, 3, 1, 4, 2))  # (N H, r, W, r, C)
    shape = (count, kept, height * factor, width * factor)
    return Value(b.restored(value.tensor, value.stored_shape, stored(shape, CHANNELS_LAST)), shape, CHANNELS_LAST)


@lowers("pixel_unshuffle.default")
def _pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    """(N, C, H r, W r) -> (N, C r r, H, W): a depthwise convolution that picks one pixel of r x r per channel made.

    SPACE_TO_DEPTH counts channels as (r, r, C), ATen as (C, r, r), and XNNPACK does not take it.
    """
    import torch

    pick = torch.eye(factor**2).reshape(factor**2, 1, factor, factor)
    weight = pick.repeat(x.shape[1], 1, 1, 1)  # (C r r, 1, r, r)
    return conv2d(b, x, weight, stride=factor, groups=x.shape[1])


def _windowed(
    b: Builder, x: Value, shape: Shape, extent: Sequence[int], stride: Sequence[int],
    padding: Sequence[tuple[int, int] | int], fill: float = 0.0,
) -> tuple[Value, int]:  # fmt: skip
    """`x` channels-last for an operator that slides a window, padded if need be, and the padding scheme to give it.

    SAME puts the odd element behind, ATen in front: with a stride they differ, and zeros are then added explicitly.
    """
    if len(x.shape) != 4:
        raise Unsupported(f"a map of rank {len(x.shape)}")
    x = b.relaid(x, CHANNELS_LAST)
    amounts = [pad if isinstance(pad, tuple) else (pad, pad) for pad in padding]
    if all(pad == (0, 0) for pad in amounts):
        return x, VALID
    same = [_same_padding(*sizes) for sizes in zip(x.shape[2:], extent, stride, strict=True)]
    if same == amounts and all(-(-i // s) == o for i, s, o in zip(x.shape[2:], stride, shape[2:], strict=True)):
        return x, SAME
    return padded(b, x, [(0, 0), (0, 0), *amounts], fill), VALID


def _same_padding(size: int, extent: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _conv_padding(padding: Any, extent: Sequence[int]) -> list[tuple[int, int]]:
    if padding == "same":  # stride 1: ATen too puts the odd element behind
        return [((e - 1) // 2, e - 1 - (e - 1) // 2) for e in extent]
    return [(pad, pad) for pad in ((0, 0) if padding == "valid" else _pair(padding))]


def _strides(stride: Sequence[int], scheme: int) -> dict[str, int]:
    return {"padding": scheme, "strideH": stride[0], "strideW": stride[1]}


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return tuple(value) * 2 if len(value) == 1 else tuple(value)


def _constant(operand: Any) -> bool:
    return not isinstance(operand, Value)


def _bias(b: Builder, bias: torch.Tensor | None, size: int) -> int:
    import torch

    return b.laid(torch.zeros(size) if bias is None else bias, (0,))
