"""Skips that are concatenated get a copy of their own, for int8.

Kernels concatenate integers only if all of them have the same quantization parameters. A feature map that goes down the
network and across to the decoder would have to take the decoder's, whose range may be many times wider than its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.graph.edit import MAP_RANK, Graph, argument, is_call, place, shape, source_of

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class IsolateConcatInputs:
    """Lets a concatenation of feature maps read an identity, a depthwise 1x1 convolution, of what others read too."""

    name: str = "isolate_concat_inputs"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each concatenation changed."""
        import torch

        concatenations = graph.calls(torch.ops.aten.cat.default)
        return graph.rewrite_each(concatenations, lambda node: _separate(graph, node))


ISOLATE_CONCAT_INPUTS = IsolateConcatInputs()


def _separate(graph: Graph, node: fx.Node) -> bool:
    import torch

    sources = list(argument(node, 0))
    maps = {_sliced(source) for source in sources}
    if len(shape(node)) != MAP_RANK or argument(node, 1, 0) != 1 or len(maps) < len(sources):
        return False  # slices of one feature map share its qparams anyway
    shared = [source for source in sources if len(source.users) > 1]
    for source in shared:
        channels = shape(source)[1]
        weight = graph.constant(torch.ones(channels, 1, 1, 1), f"{place(source)}_copy")
        conv = torch.ops.aten.conv2d.default
        copied = graph.call(conv, source, weight, None, [1, 1], [0, 0], [1, 1], channels, like=node)
        node.replace_input_with(source, copied)
    return bool(shared)


def _sliced(node: fx.Node) -> fx.Node:
    """The feature map that a slice is of, any other node itself."""
    import torch

    while is_call(node, torch.ops.aten.slice.Tensor):
        node = source_of(node)
    return node
