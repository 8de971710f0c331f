"""Convolutions whose kernels are computed, as sums of shifted products.

No delegate takes a convolution with weights that come from the image. A depthwise one is the sum over its taps of the
feature map, shifted, times that tap's weights: slices, products and sums of rank 4, which every delegate takes.

- Dynamic DWNet computes one kernel per channel: each shifted feature map is multiplied by a vector of channels.
- Inhomogeneous dynamic DWNet computes one per pixel, which a group of channels shares, and writes that as `unfold`, a
  product and a sum. Here the channels of a group stand apart, so that all groups' weights of a tap multiply rows of
  adjacent numbers; the convolution that computes the weights gives them in that order (fold_channel_shuffles).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import MAP_RANK, Graph, argument, is_call, is_depthwise, node_of, only_user, shape, source_of

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class DecomposeDynamicConv:
    """Writes convolutions with computed kernels, one per channel or one per pixel, as sums of shifted products.

    For servers too: each image of a batch has kernels of its own, and a convolution takes one set.
    """

    name: str = "decompose_dynamic_conv"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each convolution rewritten."""
        import torch

        aten = torch.ops.aten
        places = graph.rewrite_each(graph.calls(aten.conv2d.default), lambda conv: _per_channel(graph, conv))
        return places + graph.rewrite_each(graph.calls(aten.sum.dim_IntList), lambda total: _per_pixel(graph, total))


DECOMPOSE_DYNAMIC_CONV = DecomposeDynamicConv()


def _per_channel(graph: Graph, conv: fx.Node) -> bool:
    """A depthwise convolution of one image with stride 1 and kernels (C, 1, kH, kW) from the image."""
    import torch

    aten = torch.ops.aten
    source, kernels, bias = conv.args[0], conv.args[1], argument(conv, 2, None)
    plain = [list(argument(conv, position, [1, 1])) for position in (3, 5)] == [[1, 1], [1, 1]]
    if graph.value(kernels) is not None or not is_depthwise(conv) or shape(conv)[0] != 1 or not plain:
        return False
    padding = argument(conv, 4, [0, 0])
    if isinstance(padding, str):
        return False
    channels, _, *window = shape(kernels)
    taps = math.prod(window)

    def call(target: Any, *args: Any) -> fx.Node:
        return graph.call(target, *args, like=conv)

    by_tap = call(aten.reshape.default, kernels, [1, channels, taps, 1])
    by_tap = call(aten.transpose.int, by_tap, 1, 2)
    by_tap = call(
        aten.reshape.default, by_tap, [1, taps * channels, 1, 1]
    )  # the channels' weights of the first tap, ...
    weights = [call(aten.slice.Tensor, by_tap, 1, tap * channels, (tap + 1) * channels) for tap in range(taps)]
    padded = call(aten.constant_pad_nd.default, source, [padding[1], padding[1], padding[0], padding[0]], 0.0)
    rows, columns = shape(conv)[2:]
    strips = [call(aten.slice.Tensor, padded, 2, top, top + rows) for top in range(window[0])]
    shifted = [call(aten.slice.Tensor, strip, 3, left, left + columns) for strip in strips for left in range(window[1])]
    total = _sum_of_products(call, shifted, weights)
    if bias is not None:
        total = call(aten.add.Tensor, total, call(aten.reshape.default, bias, [1, channels, 1, 1]))
    graph.replace(conv, total)
    return True


@dataclass(frozen=True)
class _Unfolded:
    """A convolution with kernels of each pixel's own: its feature map, kernels (N, groups * taps, H, W), and window."""

    source: fx.Node
    kernels: fx.Node
    window: tuple[int, int]
    padding: tuple[int, int]
    groups: int


def _per_pixel(graph: Graph, total: fx.Node) -> bool:
    """The sum over taps of unfolded patches times kernels of each pixel's own."""
    import torch

    aten = torch.ops.aten
    found = _unfolded(total)
    user = only_user(total)
    if found is None or user is None or not is_call(user, aten.reshape.default):
        return False
    batch, channels, rows, columns = shape(found.source)
    if shape(user) != shape(found.source):
        return False
    groups, taps = found.groups, math.prod(found.window)
    each = channels // groups

    def call(target: Any, *args: Any) -> fx.Node:
        return graph.call(target, *args, like=total)

    def to_pixels(node: fx.Node, outer: int, inner: int) -> fx.Node:
        """(N, outer * inner, H, W) -> (N, H, W, inner * outer)."""
        split = call(aten.reshape.default, node, [batch, outer, inner, rows * columns])
        swapped = call(aten.transpose.int, split, 1, 2)
        merged = call(aten.reshape.default, swapped, [batch, outer * inner, rows, columns])
        return call(aten.permute.default, merged, [0, 2, 3, 1])

    pixels = to_pixels(found.source, groups, each)  # a group's first channels, then all second ones, ...
    kernels = to_pixels(found.kernels, groups, taps)  # all groups' weights of the first tap, ...
    kernels = call(aten.reshape.default, kernels, [batch * rows, columns, taps, groups])
    weights = [call(aten.slice.Tensor, kernels, 2, tap, tap + 1) for tap in range(taps)]
    down, right = found.padding
    padded = call(aten.constant_pad_nd.default, pixels, [0, 0, right, right, down, down], 0.0)
    shifted = []
    for top in range(found.window[0]):
        strip = call(aten.slice.Tensor, padded, 1, top, top + rows)
        strip = call(aten.reshape.default, strip, [batch * rows, columns + 2 * right, each, groups])
        shifted += [call(aten.slice.Tensor, strip, 1, left, left + columns) for left in range(found.window[1])]
    result = _sum_of_products(call, shifted, weights)  # (N * H, W, each, groups)
    result = call(aten.reshape.default, result, [batch, rows, columns, channels])
    result = call(aten.permute.default, result, [0, 3, 1, 2])
    split = call(aten.reshape.default, result, [batch, each, groups, rows * columns])
    restored = call(aten.transpose.int, split, 1, 2)
    graph.replace(user, call(aten.reshape.default, restored, [batch, channels, rows, columns]))
    return True


def _unfolded(total: fx.Node) -> _Unfolded | None:
    """What a sum adds up, if it is (unfold(x) * kernels).sum over the taps, by groups of channels."""
    import torch

    aten = torch.ops.aten
    product = total.args[0]
    if total.args[1] != [2] or not is_call(product, aten.mul.Tensor) or len(shape(product)) != MAP_RANK:
        return None
    patches, kernels = product.args
    if not (is_call(patches, aten.reshape.default) and is_call(kernels, aten.reshape.default)):
        return None
    unfold, kernels = patches.args[0], kernels.args[0]
    if not is_call(unfold, aten.im2col.default) or len(shape(kernels)) != MAP_RANK:
        return None
    source = source_of(unfold)
    window, dilation, padding, stride = (argument(unfold, position) for position in (1, 2, 3, 4))
    batch, channels, *sides = shape(source)
    taps = math.prod(window)
    groups = shape(product)[0] // batch
    expected = (batch * groups, channels // groups, taps, sides[0] * sides[1])
    same_size = [2 * pad + 1 for pad in padding] == list(window)
    if shape(product) != expected or list(dilation) != [1, 1] or list(stride) != [1, 1] or not same_size:
        return None
    if shape(kernels) != (batch, groups * taps, *sides):
        return None
    return _Unfolded(source, node_of(kernels), tuple(window), tuple(padding), groups)


def _sum_of_products(call: Callable[..., fx.Node], shifted: list[fx.Node], weights: list[fx.Node]) -> fx.Node:
    """The sum over taps of what is shifted times its weights."""
    import torch

    aten = torch.ops.aten
    products = [call(aten.mul.Tensor, *pair) for pair in zip(shifted, weights, strict=True)]
    return functools.reduce(lambda total, product: call(aten.add.Tensor, total, product), products)
