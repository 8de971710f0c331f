"""Softmax over the last axis, the only one that XNNPACK's kernel knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.graph.edit import Graph, argument, place, shape, source_of

if TYPE_CHECKING:
    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class SoftmaxLastAxis:
    """Turns a softmax over another axis into transpose, softmax, transpose; other passes let the transposes cancel."""

    name: str = "softmax_last_axis"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each softmax moved."""
        import torch

        aten = torch.ops.aten
        places: list[str] = []
        if costs.softmax_any_axis:
            return places
        for node in graph.calls(aten.softmax.int):
            source, rest = source_of(node), node.args[2:]
            rank = len(shape(node))
            axis = argument(node, 1) % max(rank, 1)
            if axis >= rank - 1:
                continue
            turned = graph.call(aten.transpose.int, source, axis, rank - 1, like=node)
            softmax = graph.call(aten.softmax.int, turned, rank - 1, *rest, like=node)
            places.append(place(node))
            graph.replace(node, graph.call(aten.transpose.int, softmax, axis, rank - 1, like=node))
        graph.tidy()
        return places


SOFTMAX_LAST_AXIS = SoftmaxLastAxis()
