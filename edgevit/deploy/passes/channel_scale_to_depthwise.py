"""Per-channel arithmetic on feature maps as depthwise 1x1 convolutions, for int8.

A float kernel multiplies by a vector for nothing. In int8 the vector would be quantized per tensor, 256 values for all
channels together; the weights of a depthwise convolution have a scale per channel, with which every factor is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.deploy.passes.fold_affine import batch_norm
from edgevit.graph.edit import MAP_RANK, Graph, is_call, is_norm_result, node_of, only_user, place, shape, source_of
from edgevit.graph.elementwise import operands

if TYPE_CHECKING:
    from torch import Tensor, fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class ChannelScaleToDepthwise:
    """Turns a feature map times a value per channel, and a sum behind it, into a depthwise 1x1 convolution.

    A BatchNorm that no convolution has taken up is such a product and sum.
    """

    name: str = "channel_scale_to_depthwise"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each product that is a convolution now. LayerNorms keep theirs: they stay in float."""
        return graph.rewrite_each(graph.nodes, lambda node: _norm(graph, node) or _product(graph, node))


CHANNEL_SCALE_TO_DEPTHWISE = ChannelScaleToDepthwise()


def _norm(graph: Graph, node: fx.Node) -> bool:
    if not is_norm_result(node) or len(shape(node)) != MAP_RANK:
        return False
    affine = batch_norm(graph, source_of(node))
    if affine is None:
        return False
    ((source, scale),) = affine.terms.items()
    assert scale is not None  # a norm has both
    assert affine.shift is not None
    _convolve(graph, node, source, scale.reshape(-1), affine.shift.reshape(-1))
    return True


def _product(graph: Graph, product: fx.Node) -> bool:
    import torch

    aten = torch.ops.aten
    if not is_call(product, aten.mul.Tensor):
        return False
    scaled = _by_channel(graph, product)
    if scaled is None or _is_normalised(scaled[0]):
        return False
    source, factors = scaled
    user = only_user(product)
    if is_call(user, aten.add.Tensor) and len(user.args) == 2 and not user.kwargs:
        shifted = _by_channel(graph, user)
        if shifted is not None and shifted[0] is product:
            _convolve(graph, user, source, factors, shifted[1])
            return True
    _convolve(graph, product, source, factors, None)
    return True


def _convolve(graph: Graph, node: fx.Node, source: fx.Node, factors: Tensor, offsets: Tensor | None) -> None:
    """Let a depthwise convolution of `source` stand for `node`."""
    import torch

    channels = len(factors)
    weight = graph.constant(factors.reshape(channels, 1, 1, 1), f"{place(node)}_factor")
    bias = None if offsets is None else graph.constant(offsets, f"{place(node)}_offset")
    conv = torch.ops.aten.conv2d.default
    graph.replace(node, graph.call(conv, source, weight, bias, [1, 1], [0, 0], [1, 1], channels, like=node))


def _by_channel(graph: Graph, node: fx.Node) -> tuple[fx.Node, Tensor] | None:
    """The feature map and the value per channel (C,) that a node combines; None if it is something else."""
    for source, other in (node.args[:2], node.args[1::-1]):
        values = graph.value(other)
        if values is None or graph.value(source) is not None or shape(source) != shape(node):
            continue
        if len(shape(node)) == MAP_RANK and _is_per_channel(values, shape(node)[1]):
            return node_of(source), values.reshape(-1)
    return None


def _is_per_channel(values: Tensor, channels: int) -> bool:
    """Whether a constant has one value per channel and broadcasts along all other axes of a feature map."""
    return values.dim() >= 3 and values.shape[-3] == channels == values.numel()


def _is_normalised(source: Any) -> bool:
    """Whether a feature map comes out of a norm: the product with a reciprocal root."""
    import torch

    aten = torch.ops.aten
    read = operands(source) if is_call(source, aten.mul.Tensor) else None
    return read is not None and any(is_call(operand, aten.rsqrt.default) for operand in read)
