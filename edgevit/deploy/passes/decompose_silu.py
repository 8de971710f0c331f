"""SiLU as a product with a sigmoid, for int8: no runtime has a kernel for it there, and all have these two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.graph.edit import Graph, place

if TYPE_CHECKING:
    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class DecomposeSilu:
    """Turns silu(x) into x * sigmoid(x): a lookup table of 256 entries and an integer multiplication."""

    name: str = "decompose_silu"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each SiLU."""
        import torch

        aten = torch.ops.aten
        places = []
        for node in graph.calls(aten.silu.default):
            (source,) = node.args
            gate = graph.call(aten.sigmoid.default, source, like=node)
            places.append(place(node))
            graph.replace(node, graph.call(aten.mul.Tensor, source, gate, like=node))
        graph.tidy()
        return places


DECOMPOSE_SILU = DecomposeSilu()
