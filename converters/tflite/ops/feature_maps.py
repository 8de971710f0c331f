"""Ops on feature maps, which TFLite keeps channels-last: convolutions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converters.tflite.builder import Builder, Unsupported
from converters.tflite.layout import CHANNELS_LAST, Shape, Value, identity, stored
from converters.tflite.ops.axes import padded, sliced
from converters.tflite.ops.products import bias_tensor, is_constant
from converters.tflite.ops.reductions import reduced
from converters.tflite.registry import lowers

if TYPE_CHECKING:
    import torch

SAME, VALID = 0, 1  # of the schema's Padding


@lowers("conv2d.default")
def conv2d(
    b: Builder, x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Value:  # fmt: skip
    """x (N, I, H, W), weight (O, I / groups, kH, kW) -> (N, O, H', W')."""
    if not is_constant(weight) or not is_constant(bias):
        raise Unsupported("a weight that is computed")
    shape = tuple(b.lowered.meta["val"].shape)
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
    inputs = [x.tensor, filters, bias_tensor(b, bias, weight.shape[0])]
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
    inputs = [b.integers(*stored(shape, CHANNELS_LAST)), filters, x.tensor, bias_tensor(b, bias, shape[1])]
    tensor = b.emit("TRANSPOSE_CONV", inputs, stored(shape, CHANNELS_LAST), _strides(stride, VALID))
    result = Value(tensor, shape, CHANNELS_LAST)
    for axis, amount in zip((2, 3), padding, strict=True):
        result = sliced(b, result, axis, amount, result.shape[axis] - amount)
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
    result = b.lowered.meta["val"]
    shape = tuple(result[0].shape if isinstance(result, tuple) else result.shape)
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
    scales: list[Any] = [s for s in b.lowered.args[2:] if isinstance(s, (list, tuple))] or [()]
    shape = tuple(b.lowered.meta["val"].shape)
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
    """`x` channels-last for an operator that slides a window, padded if need be, and the padding mode to give it.

    SAME puts the odd element behind, ATen in front: with a stride they differ, and zeros are then added explicitly.
    """
    if len(x.shape) != 4:
        raise Unsupported(f"a feature map of rank {len(x.shape)}")
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
