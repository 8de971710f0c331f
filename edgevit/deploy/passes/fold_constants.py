"""What does not depend on the input is computed once, here: PerViT's position attention, window biases and the like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import Graph, elements, is_random, operation, place

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs

# A constant is stored, an operation is not: the result of a cheap one, which only repeats what it is given, may be
# this much larger than that.
_MAX_GROWTH = 2.0


@dataclass(frozen=True)
class FoldConstants:
    """Replaces calls whose operands are all constants by their results."""

    name: str = "fold_constants"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each call that became a constant."""
        import torch

        places = []
        for node in graph.nodes:
            if node.op != "call_function" or not _is_foldable(node):
                continue
            with torch.no_grad():
                result = operation(node)(*torch.fx.map_arg(node.args, graph.value), **node.kwargs)
            places.append(place(node))
            graph.replace(node, graph.constant(result, f"{place(node)}_constant"))
        graph.tidy()
        return places


FOLD_CONSTANTS = FoldConstants()


def _is_foldable(node: fx.Node) -> bool:
    """One float result from constants alone, hard to come by or not much larger than they are together."""
    import torch

    value, sources = node.meta.get("val"), node.all_input_nodes
    if is_random(node) or not sources or any(source.op != "get_attr" for source in sources):
        return False
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return False
    return node.target in _laborious() or elements(node) <= _MAX_GROWTH * sum(elements(source) for source in sources)


@cache
def _laborious() -> frozenset[Any]:
    """Operations that are work for a processor, or that delegates leave to it."""
    import torch

    aten = torch.ops.aten
    products = {aten.conv2d.default, aten.linear.default, aten.matmul.default, aten.bmm.default}
    return frozenset(products | {aten.group_norm.default, aten.index.Tensor, aten.embedding.default})
