"""Operations that change nothing are taken out: dropout in eval mode, copies, views of views, pairs that cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import Graph, argument, is_call, node_of, place, shape, source_of

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class RemoveNoops:
    """Lets every user of a result that equals its source read the source instead."""

    name: str = "remove_noops"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each operation removed."""
        import torch

        for node in graph.calls(*_views()):
            # One form for all; and a view depends on strides, which rewrites may change.
            node.target, node.args = torch.ops.aten.reshape.default, (node.args[0], list(shape(node)))
        places = []
        for node in graph.nodes:
            source = _source(graph, node)
            if source is not None:
                places.append(place(node))
                graph.replace(node, source)
        graph.tidy()
        return places


REMOVE_NOOPS = RemoveNoops()


def _views() -> tuple[Any, ...]:
    """The operations that give the same elements in the same sequence another shape."""
    import torch

    aten = torch.ops.aten
    views = (aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints)
    return (*views, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)


def _source(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The node that a no-op could as well be, made where it takes a new view; None if it is none."""
    import torch

    aten = torch.ops.aten
    if is_call(node, aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default):
        return source_of(node)
    if is_call(node, aten.dropout.default):
        probability, training = argument(node, 1), argument(node, 2)
        return None if training and probability > 0 else source_of(node)
    if is_call(node, aten.reshape.default):
        return _shorter_view(graph, node)
    if is_call(node, aten.expand.default, aten.slice.Tensor) and shape(node) == shape(node.args[0]):
        return source_of(node) if argument(node, 4, 1) == 1 else None
    if is_call(node, aten.permute.default, aten.transpose.int):
        return _cancelled(graph, node)
    if is_call(node, aten.cat.default) and len(argument(node, 0)) == 1:
        return node_of(argument(node, 0)[0])
    return None


def _shorter_view(graph: Graph, node: fx.Node) -> fx.Node | None:
    """A view to the same shape is its source; a view of a view is one view of the first source."""
    import torch

    source = source_of(node)
    while is_call(source, torch.ops.aten.reshape.default) and shape(source) != shape(node):
        source = source_of(source)
    if shape(source) == shape(node):
        return source
    if source is node.args[0]:
        return None
    return graph.call(torch.ops.aten.reshape.default, source, list(shape(node)), like=node)


def _cancelled(graph: Graph, node: fx.Node) -> fx.Node | None:
    """Two permutations in a row are one, or none if they cancel; one of axes of size 1 alone is a view."""
    import torch

    aten = torch.ops.aten
    source, order = source_of(node), permutation(node)
    moved = [axis for axis in order if shape(source)[axis] != 1]
    if moved == sorted(moved):
        same = shape(source) == shape(node)
        return source if same else graph.call(aten.reshape.default, source, list(shape(node)), like=node)
    if not is_call(source, aten.permute.default, aten.transpose.int):
        return None
    first = permutation(source)
    combined = [first[axis] for axis in order]
    if combined == sorted(combined):
        return source_of(source)
    return graph.call(aten.permute.default, source.args[0], combined, like=node)


def permutation(node: fx.Node) -> list[int]:
    """The axes of a permute or transpose node's input in the order of its output."""
    import torch

    rank = len(shape(node))
    if is_call(node, torch.ops.aten.permute.default):
        return [axis % rank for axis in argument(node, 1)]
    order = list(range(rank))
    first, second = argument(node, 1) % rank, argument(node, 2) % rank
    order[first], order[second] = order[second], order[first]
    return order
