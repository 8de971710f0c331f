"""LayerNorm from products, which every delegate takes.

XNNPACK delegates neither layer_norm nor a mean over channels, and each of them would cut the graph in two. The mean as
a product with 1 / C stays inside. The LayerNorm of a feature map that was made into tokens for it is computed on the
feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.deploy.passes.data_movement import Rearrangement, chain
from edgevit.graph.edit import MAP_RANK, Graph, argument, only_user, place, shape, source_of

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class DecomposeLayerNorm:
    """Writes LayerNorm over channels as means by linear layers or, on a feature map, by 1x1 convolutions."""

    name: str = "decompose_layer_norm"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each norm rewritten; none where the runtime takes them whole."""
        import torch

        if costs.layer_norm:
            return []
        norms = graph.calls(torch.ops.aten.layer_norm.default)
        return graph.rewrite_each(norms, lambda norm: _rewrite(graph, norm))


DECOMPOSE_LAYER_NORM = DecomposeLayerNorm()


def _rewrite(graph: Graph, norm: fx.Node) -> bool:
    tokens, sizes = source_of(norm), argument(norm, 1)
    affine = [argument(norm, position, None) for position in (2, 3)]
    constant = all(value is None or graph.value(value) is not None for value in affine)
    if len(sizes) != 1 or len(shape(tokens)) < 2 or not constant:
        return False
    source, view = _map_behind(norm)
    if view is None:
        graph.replace(norm, _normalise(graph, norm, tokens, channel_axis=-1))
    else:
        result = _normalise(graph, norm, source, channel_axis=1)
        graph.replace(norm, view.emit(graph, result, like=norm))
    return True


def _map_behind(norm: fx.Node) -> tuple[fx.Node, Rearrangement | None]:
    """The feature map whose pixels the norm reads as tokens, for the norm alone, and how they become its tokens."""
    for nodes, view in chain(source_of(norm)):
        source = source_of(nodes[-1])
        if any(only_user(node) is None for node in nodes):
            break
        if len(shape(source)) == MAP_RANK and view.moves and _is_channels_last(view):
            return source, view
    return source_of(norm), None


def _is_channels_last(view: Rearrangement) -> bool:
    """Whether the target is the feature map with its channels in the last axis and all else in the same order."""
    channels = view.source_axes[1]
    pixels = tuple(atom for axis in (0, 2, 3) for atom in view.source_axes[axis])
    return view.target_axes[-1] == channels and view.order == (*pixels, *channels)


def _normalise(graph: Graph, norm: fx.Node, source: fx.Node, *, channel_axis: int) -> fx.Node:
    """(x - mean) * rsqrt(mean of squares + eps) * weight + bias, with eps as the bias of the second mean."""
    import torch

    aten = torch.ops.aten
    on_map = channel_axis == 1
    channels = shape(source)[channel_axis]
    per_channel = (1, channels, 1, 1) if on_map else (channels,)
    product = aten.conv2d.default if on_map else aten.linear.default
    name = place(norm)
    average = torch.full((1, channels, 1, 1) if on_map else (1, channels), 1.0 / channels)
    weight = graph.constant(average, f"{name}_average")
    eps = graph.constant(torch.full((1,), argument(norm, 4, 1e-5)), f"{name}_eps")

    def call(target: Any, *args: Any) -> fx.Node:
        return graph.call(target, *args, like=norm)

    centred = call(aten.sub.Tensor, source, call(product, source, weight))
    variance = call(product, call(aten.mul.Tensor, centred, centred), weight, eps)
    result = call(aten.mul.Tensor, centred, call(aten.rsqrt.default, variance))
    for position, target in ((2, aten.mul.Tensor), (3, aten.add.Tensor)):
        value = argument(norm, position, None)
        if value is not None:
            own = graph.constant(graph.constant_value(value).reshape(per_channel), f"{name}_affine")
            result = call(target, result, own)
    return result
