"""Depthwise convolutions in kernels that runtimes are fast at.

A kernel of many taps is a sum of kernels of fewer: its taps lie in rows and columns, and any set of
evenly spaced rows and columns around the centre is again a kernel, with a dilation. XNNPACK has fast depthwise
code for up to 25 taps and takes a general convolution above that, so that VAN's 7x7 costs half of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import Graph, argument, elements, is_depthwise, place, source_of

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs

_MAX_SIDE = 15  # partitions are searched exhaustively; wider kernels have too many
_PREMIUM = 0.03  # on each further piece, beyond its kernel: another operation, another feature map in the cache


@dataclass(frozen=True, slots=True)
class Line:
    """Evenly spaced positions along one axis of a kernel, symmetric around its centre."""

    start: int
    step: int
    count: int

    @property
    def taps(self) -> slice:
        """Its positions as a slice of the kernel's axis."""
        return slice(self.start, self.start + self.step * (self.count - 1) + 1, self.step)


@dataclass(frozen=True)
class SplitDepthwise:
    """Splits depthwise kernels that no fast kernel class takes into the cheapest sum of such that do."""

    name: str = "split_depthwise"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each convolution split."""
        import torch

        convolutions = graph.calls(torch.ops.aten.conv2d.default)
        return graph.rewrite_each(convolutions, lambda conv: _split(graph, conv, costs))


SPLIT_DEPTHWISE = SplitDepthwise()


def _split(graph: Graph, conv: fx.Node, costs: Costs) -> bool:
    import torch

    weight = graph.value(conv.args[1])
    if weight is None or not is_depthwise(conv):
        return False
    height, width = weight.shape[2:]
    if max(height, width) > _MAX_SIDE:
        return False
    padding, dilation = _pair(argument(conv, 4, 0)), _pair(argument(conv, 5, 1))
    pieces = cheapest_split(height, width, costs)
    offsets = [(rows.start * dilation[0], columns.start * dilation[1]) for rows, columns in pieces]
    if not pieces or any(first > padding[0] or second > padding[1] for first, second in offsets):
        return False  # a piece that starts inside the image would have to crop it
    total = None
    for (rows, columns), offset in zip(pieces, offsets, strict=True):
        kernel = graph.constant(weight[:, :, rows.taps, columns.taps], f"{place(conv)}_taps")
        piece = graph.call(
            torch.ops.aten.conv2d.default,
            conv.args[0],
            kernel,
            argument(conv, 2, None) if total is None else None,
            argument(conv, 3, [1, 1]),
            [padding[0] - offset[0], padding[1] - offset[1]],
            [dilation[0] * rows.step, dilation[1] * columns.step],
            argument(conv, 6, 1),
            like=conv,
        )
        total = piece if total is None else graph.call(torch.ops.aten.add.Tensor, total, piece, like=conv)
    assert total is not None  # there are pieces
    graph.replace(conv, total)
    return True


@cache
def cheapest_split(height: int, width: int, costs: Costs) -> tuple[tuple[Line, Line], ...]:
    """Pieces (rows, columns) that together hold each tap of a height x width kernel once; () if one kernel is best."""
    best: tuple[tuple[Line, Line], ...] = ()
    best_cost = costs.depthwise_element(height * width)
    for row_lines in _partitions(height):
        pieces = tuple(piece for rows in row_lines for piece in _strip(rows, width, costs))
        cost = _cost(pieces, costs)
        if cost < best_cost:
            best, best_cost = pieces, cost
    return best


def _strip(rows: Line, width: int, costs: Costs) -> tuple[tuple[Line, Line], ...]:
    """The cheapest pieces that hold some rows of a kernel in full."""
    splits = [tuple((rows, columns) for columns in lines) for lines in _partitions(width)]
    return min(splits, key=lambda pieces: (_cost(pieces, costs), len(pieces)))


def _cost(pieces: tuple[tuple[Line, Line], ...], costs: Costs) -> float:
    """Picoseconds for one output element: the kernels and the additions between them, with the premium."""
    kernels = sum(costs.depthwise_element(rows.count * columns.count) for rows, columns in pieces)
    more = len(pieces) - 1
    return (kernels + costs.elementwise * more) * (1 + _PREMIUM * more)


@cache
def _partitions(side: int) -> tuple[tuple[Line, ...], ...]:
    """Every way to part the positions 0..side-1 into lines."""
    return tuple(_cover(frozenset(range(side)), side))


def _cover(positions: frozenset[int], side: int) -> list[tuple[Line, ...]]:
    if not positions:
        return [()]
    first = min(positions)
    span = side - 1 - 2 * first  # the line that holds the first position ends at its mirror image
    covers = []
    for count in range(2, span + 2) if span else (1,):
        if count > 1 and span % (count - 1):
            continue
        line = Line(first, span // (count - 1) if count > 1 else 1, count)
        taken = frozenset(range(side)[line.taps])
        if taken <= positions:
            covers += [(line, *rest) for rest in _cover(positions - taken, side)]
    return covers


@dataclass(frozen=True)
class ReplicateDepthwise:
    """Turns depthwise convolutions of several outputs per channel into plain ones on a replicated input.

    Where each input channel gives several outputs, XNNPACK takes a general grouped convolution. Replicating the
    channels first, by a 1x1 convolution of zeros and ones, leaves one output per channel.
    """

    name: str = "replicate_depthwise"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each convolution that now has one output per channel."""
        import torch

        convolutions = graph.calls(torch.ops.aten.conv2d.default)
        return graph.rewrite_each(convolutions, lambda conv: _replicate(graph, conv, costs))


REPLICATE_DEPTHWISE = ReplicateDepthwise()


def _replicate(graph: Graph, conv: fx.Node, costs: Costs) -> bool:
    import torch

    weight = graph.value(conv.args[1])
    groups = argument(conv, 6, 1)
    if weight is None or weight.shape[1] != 1 or weight.shape[0] == groups or groups == 1:
        return False
    channels, taps = weight.shape[0], math.prod(weight.shape[2:])
    pixels = elements(source_of(conv)) // groups
    before = costs.grouped(taps, channels // groups) * elements(conv) // (channels // groups)
    copies = (costs.mac * groups + costs.elementwise) * channels * pixels
    if copies + costs.depthwise_element(taps) * elements(conv) >= before:
        return False
    replicas = torch.eye(groups).repeat_interleave(channels // groups, 0)[:, :, None, None]  # (O, I, 1, 1)
    wide = graph.call(
        torch.ops.aten.conv2d.default,
        conv.args[0],
        graph.constant(replicas, f"{place(conv)}_replicas"),
        like=conv,
    )
    conv.args = (wide, *conv.args[1:6], channels)
    return True


def _pair(value: Any) -> tuple[int, int]:
    """A convolution's stride, padding or dilation, given once or per axis."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])
