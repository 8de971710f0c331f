"""Every n-th channel of a feature map is picked by a 1x1 convolution of zeros and ones.

In a channels-last runtime such a slice gathers single numbers, and XNNPACK has no slice with a step at all; the
convolution multiplies by one and adds zeros, which is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.graph.edit import Graph, argument, place, shape

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class StridedSliceToConv:
    """Turns slices with a step through the channels of a feature map into convolutions."""

    name: str = "strided_slice_to_conv"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each slice that became a convolution."""
        import torch

        slices = graph.calls(torch.ops.aten.slice.Tensor)
        return graph.rewrite_each(slices, lambda node: _pick(graph, node, costs))


STRIDED_SLICE_TO_CONV = StridedSliceToConv()


def _pick(graph: Graph, node: fx.Node, costs: Costs) -> bool:
    import torch

    source, axis, step = node.args[0], argument(node, 1, 0), argument(node, 4, 1)
    if len(shape(node)) != 4 or axis % 4 != 1 or step == 1 or node.meta["val"].dtype != torch.float32:
        return False
    channels = shape(source)[1]
    if costs.mac * channels >= costs.strided_slice:
        return False
    picked = torch.eye(channels)[slice(argument(node, 2, None), argument(node, 3, None), step)]
    weight = graph.constant(picked[:, :, None, None], f"{place(node)}_picked")  # (O, C, 1, 1)
    graph.replace(node, graph.call(torch.ops.aten.conv2d.default, source, weight, like=node))
    return True
