"""The same operation on the same operands is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import Graph, is_random, place

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class EliminateCommonSubexpressions:
    """Common subexpression elimination: in a functional graph equal calls have equal results."""

    name: str = "eliminate_common_subexpressions"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each operation that an earlier one stands for."""
        seen: dict[Any, fx.Node] = {}
        places = []
        for node in graph.nodes:
            if node.op not in ("call_function", "get_attr") or is_random(node):
                continue
            key = (node.op, node.target, _frozen(node.args), _frozen(tuple(sorted(node.kwargs.items()))))
            first = seen.setdefault(key, node)
            if first is not node:
                places += [place(node)] if node.op == "call_function" else []
                graph.replace(node, first)
        graph.tidy()
        return places


ELIMINATE_COMMON_SUBEXPRESSIONS = EliminateCommonSubexpressions()


def _frozen(value: Any) -> Any:
    """Arguments as something that can be compared and hashed; True and 1 stay apart."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return (type(value).__name__, value)
