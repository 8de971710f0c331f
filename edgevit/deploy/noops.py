"""Operations that do nothing in inference are taken out: dropout in eval mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.program import module_path

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class RemoveNoops:
    """Removes eval-mode dropouts, which would reach a runtime as copies that no delegate takes."""

    name: str = "remove_noops"

    def apply(self, graph_module: fx.GraphModule) -> list[str]:
        """Returns the module path of each operation removed."""
        import torch

        dropouts = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default)
        places = []
        for node in dropouts:
            source, probability, training = node.args
            if training and probability > 0:
                continue
            places.append(module_path(node))
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)
        return places


REMOVE_NOOPS = RemoveNoops()
