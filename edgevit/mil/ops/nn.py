"""Convolution, pooling, products, normalization and attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevit.mil.table import axes_of, ints, last_axis_first, number, op, place
from edgevit.quantization.exact_conv import plain_sums

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _paddings(
    pad_type: str, pad: Tensor | None, sizes: torch.Size, windows: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    """(before, after) per spatial axis; `same` gives the odd pixel to the end, `same_lower` to the start."""
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        amounts = ints(pad) or [0] * (2 * len(sizes))
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    pairs = []
    for size, window, stride in zip(sizes, windows, strides, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + window - size)
        before = total // 2 if pad_type == "same" else total - total // 2
        pairs.append((before, total - before))
    return pairs


@op
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """x (N, Cin, *spatial), weight (Cout, Cin / groups, *kernel) -> (N, Cout, *spatial')."""
    spatial = x.ndim - 2
    steps = ints(strides) or [1] * spatial
    spacing = ints(dilations) or [1] * spatial
    windows = [(size - 1) * gap + 1 for size, gap in zip(weight.shape[2:], spacing, strict=True)]
    pairs = _paddings(pad_type, pad, x.shape[2:], windows, steps)
    if any(before != after for before, after in pairs):
        x = F.pad(x, last_axis_first(pairs))
        pairs = [(0, 0)] * spatial
    with plain_sums(weight, steps):
        return _CONV[spatial](x, weight, bias, steps, [before for before, _ in pairs], spacing, number(groups))


@op
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """x (N, Cin, *spatial), weight (Cin, Cout / groups, *kernel); padding crops the full result.

    `output_shape` fixes the sizes: beyond the full result lie zeros, to which the bias still applies.
    """
    spatial = x.ndim - 2
    steps = ints(strides) or [1] * spatial
    spacing = ints(dilations) or [1] * spatial
    full = _CONV_TRANSPOSE[spatial](x, weight, None, steps, groups=number(groups), dilation=spacing)
    pairs = []
    for axis in range(spatial):
        size, step = full.shape[2 + axis], steps[axis]
        if pad_type in ("same", "same_lower"):
            total = size - x.shape[2 + axis] * step
            before = total // 2 if pad_type == "same" else total - total // 2
        else:
            before, after = (ints(pad)[2 * axis : 2 * axis + 2]) if pad is not None and pad_type == "custom" else (0, 0)
            total = before + after
        if output_shape is not None:
            total = size - ints(output_shape)[axis - spatial]
            before = before if pad_type == "custom" else max(0, total) // 2
        pairs.append((-before, before - total))  # negative amounts crop
    result = F.pad(full, last_axis_first(pairs))
    return result if bias is None else result + place(bias, 1, x.ndim)


def _pooling_frame(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None,
    pad_type: str,
    pad: Tensor | None,
    ceil_mode: Tensor | bool,
) -> tuple[list[int], list[int], list[tuple[int, int]], list[tuple[int, int]]]:
    """(kernel, strides, declared padding, extra padding that ceil_mode needs at the end)."""
    kernel = ints(kernel_sizes)
    steps = ints(strides) or [1] * len(kernel)
    pairs = _paddings(pad_type, pad, x.shape[2:], kernel, steps)
    extra = []
    for size, window, step, (before, after) in zip(x.shape[2:], kernel, steps, pairs, strict=True):
        padded = size + before + after
        count = (padded - window) // step + 1
        if number(ceil_mode):
            count = math.ceil((padded - window) / step) + 1
            if (count - 1) * step >= size + before:  # the last window must start inside the input
                count -= 1
        extra.append((0, max(0, (count - 1) * step + window - padded)))
    return kernel, steps, pairs, extra


@op
def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    kernel, steps, pairs, extra = _pooling_frame(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    x = F.pad(x, last_axis_first(pairs), value=-math.inf)
    return _MAX_POOL[len(kernel)](F.pad(x, last_axis_first(extra), value=-math.inf), kernel, steps)


@op
def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | bool = False,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The mean over each window; what ceil_mode adds never counts, declared padding counts unless excluded."""
    kernel, steps, pairs, extra = _pooling_frame(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    value = 0.0 if number(exclude_padding_from_average) else 1.0
    counted = F.pad(F.pad(counted, last_axis_first(pairs), value=value), last_axis_first(extra))
    x = F.pad(F.pad(x, last_axis_first(pairs)), last_axis_first(extra))
    pool = _AVG_POOL[len(kernel)]
    return pool(x, kernel, steps) / pool(counted, kernel, steps)


@op
def l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The root of the sum of squares over each window."""
    kernel, steps, pairs, extra = _pooling_frame(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    x = F.pad(F.pad(x, last_axis_first(pairs)), last_axis_first(extra))
    return torch.sqrt(_AVG_POOL[len(kernel)](torch.square(x), kernel, steps) * math.prod(kernel))


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Operands of a product in their common type; from iOS17 MIL allows integers beside floats."""
    if x.dtype == y.dtype:
        return x, y
    common = torch.promote_types(x.dtype, y.dtype)
    return x.to(common), y.to(common)


@op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I), weight (O, I) -> (..., O); integers too, which F.linear refuses with a bias."""
    x, weight = _alike(x, weight)
    if x.is_floating_point():
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))
    product = x @ weight.T
    return product if bias is None else product + bias


@op
def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    """Batched product; transposing concerns the last two axes of operands of rank 2 or more."""
    if number(transpose_x) and x.ndim > 1:
        x = x.transpose(-1, -2)
    if number(transpose_y) and y.ndim > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(*_alike(x, y))


@op
def einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *values)


@op
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """Per channel, axis 1."""
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=number(epsilon))


def _normalized(x: Tensor, over: list[int], epsilon: float, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """x with mean 0 and variance 1 over these axes, then gamma and beta, which broadcast against it."""
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    result = (x - mean) * torch.rsqrt(variance + epsilon)
    result = result if gamma is None else result * gamma
    return result if beta is None else result + beta


@op
def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """Over any set of axes; gamma and beta have the shape of those axes."""
    over = sorted(axes_of(axes, x.ndim))
    eps = number(epsilon)
    if over == list(range(x.ndim - len(over), x.ndim)):
        return F.layer_norm(x, x.shape[x.ndim - len(over) :], gamma, beta, eps)
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (value if value is None else value.reshape(shape) for value in (gamma, beta))
    return _normalized(x, over, eps, gamma, beta)


@op
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | float = 1e-5
) -> Tensor:
    """Per sample and channel over the spatial axes of (N, C, *spatial)."""
    gamma, beta = (value if value is None else place(value, 1, x.ndim) for value in (gamma, beta))
    return _normalized(x, list(range(2, x.ndim)), number(epsilon), gamma, beta)


@op
def l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    """Over the last three axes; the axes before them are batch."""
    return x * torch.rsqrt(torch.sum(torch.square(x), (-3, -2, -1), keepdim=True) + number(epsilon))


@op
def local_response_norm(
    x: Tensor, size: Tensor, alpha: Tensor | float = 1e-4, beta: Tensor | float = 0.75, k: Tensor | float = 1.0
) -> Tensor:
    return F.local_response_norm(x, number(size), number(alpha), number(beta), number(k))


@op
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """query (B, ..., L, E), key (B, ..., S, E), value (B, ..., S, EV) -> (B, ..., L, EV)."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask)
