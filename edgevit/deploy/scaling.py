"""Per-channel arithmetic on maps as depthwise 1x1 convolutions, for int8.

A float kernel multiplies by a vector for nothing. In int8 the vector would need a grid of its own, 256 values for all
channels together; the weights of a depthwise convolution have a scale per channel, on which every factor is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.deploy.elementwise import operands
from edgevit.deploy.graph import MAP_RANK, Graph, is_call, only_reader, place, shape

if TYPE_CHECKING:
    from torch import Tensor, fx

    from edgevit.deploy.costs import Costs


@dataclass(frozen=True)
class ScaleConvolutions:
    """Turns the product of a map with a value per channel, and a sum behind it, into a depthwise 1x1 convolution."""

    name: str = "scale_convolutions"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each product that is a convolution now. Norms keep theirs: they stay in float."""
        import torch

        return graph.rewrite_each(graph.calls(torch.ops.aten.mul.Tensor), lambda product: _convolve(graph, product))


SCALE_CONVOLUTIONS = ScaleConvolutions()


def _convolve(graph: Graph, product: fx.Node) -> bool:
    import torch

    aten = torch.ops.aten
    source, factors = _by_channel(graph, product)
    if factors is None or _is_normalised(source):
        return False
    channels = len(factors)
    last, bias = product, None
    reader = only_reader(product)
    if is_call(reader, aten.add.Tensor) and len(reader.args) == 2 and not reader.kwargs:
        summed, offsets = _by_channel(graph, reader)
        if offsets is not None and summed is product:
            last, bias = reader, graph.constant(offsets, f"{place(reader)}_offset")
    weight = graph.constant(factors.reshape(channels, 1, 1, 1), f"{place(product)}_factor")
    graph.replace(
        last, graph.call(aten.conv2d.default, source, weight, bias, [1, 1], [0, 0], [1, 1], channels, like=last)
    )
    return True


def _by_channel(graph: Graph, node: fx.Node) -> tuple[fx.Node | None, Tensor | None]:
    """The map and the value per channel (C,) that a node combines; None where it is something else."""
    for source, other in (node.args[:2], node.args[1::-1]):
        values = graph.value(other)
        if values is None or graph.value(source) is not None or shape(source) != shape(node):
            continue
        if len(shape(node)) == MAP_RANK and _is_per_channel(values, shape(node)[1]):
            return source, values.reshape(-1)
    return None, None


def _is_per_channel(values: Tensor, channels: int) -> bool:
    """Whether a constant has one value per channel and broadcasts along all other axes of a map."""
    return values.dim() >= 3 and values.shape[-3] == channels == values.numel()


def _is_normalised(source: Any) -> bool:
    """Whether a map comes out of a norm: the product with a reciprocal root."""
    import torch

    aten = torch.ops.aten
    read = operands(source) if is_call(source, aten.mul.Tensor) else None
    return read is not None and any(is_call(operand, aten.rsqrt.default) for operand in read)
