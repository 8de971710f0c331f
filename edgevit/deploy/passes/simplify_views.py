"""Reshapes and permutations in their cheapest exact form: token views, window partitions, class tokens.

A feature map becomes tokens by permute(0, 2, 3, 1) and a reshape, and a feature map again by a reshape and
permute(0, 3, 1, 2): where feature maps are kept channels-last the permutation is then free. Chains that cancel are
taken out, ranks that no runtime takes are merged away; an index and the parts of a split become slices, which
delegates keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.deploy.passes.data_movement import (
    Rearrangement,
    Step,
    begins_with_pixels,
    chain,
    ends_chain,
    ends_with_map,
    node_step,
    steps_cost,
)
from edgevit.graph.edit import Graph, argument, is_call, only_user, place, shape, source_of

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class SimplifyViews:
    """Writes each chain of views anew where that takes fewer or cheaper operations."""

    name: str = "simplify_views"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each chain, index, split or mean that has a new form."""
        places = [*_slice_indices(graph), *_slice_parts(graph), *_mean_on_maps(graph), *shorten_chains(graph)]
        graph.tidy()
        return places


SIMPLIFY_VIEWS = SimplifyViews()


def shorten_chains(graph: Graph) -> list[str]:
    """Give every chain of rearrangements its cheapest form; returns the places of those that change."""
    places = []
    for node in graph.nodes:
        if not ends_chain(node) or _is_taken_transposed(node):
            continue
        best: tuple[fx.Node, Rearrangement] | None = None
        least: tuple[int, ...] = (0, 0, 0, 0)
        for nodes, together in chain(node):
            saved = _cost_difference(together.steps(), _steps_freed(nodes))
            if saved < least:
                best, least = (source_of(nodes[-1]), together), saved
        if best is not None:
            source, together = best
            places.append(place(node))
            graph.replace(node, together.emit(graph, source, like=node))
    return places


def _is_taken_transposed(node: fx.Node) -> bool:
    """Whether matrix products read a transposed matrix as their right factor: they take it as it lies."""
    import torch

    rank = len(shape(node))
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    if node_step(node) != ("permute", tuple(swapped)):
        return False
    return all(is_call(user, torch.ops.aten.bmm.default) and user.args[0] is not node for user in node.users)


def _steps_freed(nodes: list[fx.Node]) -> list[Step]:
    """The operations of a chain, last first, that have no other user."""
    steps: list[Step] = []
    for position, node in enumerate(nodes):
        if position and only_user(node) is None:
            break
        if (step := node_step(node)) is not None:
            steps.append(step)
    return steps


def _cost_difference(new: tuple[Step, ...], old: list[Step]) -> tuple[int, ...]:
    """What the new operations cost beyond the old ones (last first): below zero is a gain.

    Where the old ones began with a feature map's pixels or ended with a feature map, it lies channels-last: new
    operations that permute it otherwise would first have to bring it into the order of its axes.
    """
    old = old[::-1]
    ranks, moves, *rest = (after - before for after, before in zip(steps_cost(new), steps_cost(old), strict=True))
    if any(kind == "permute" for kind, _ in new):
        moves += begins_with_pixels(old) and not begins_with_pixels(new)
        moves += ends_with_map(old) and not ends_with_map(new)
    return (ranks, moves, *rest)


def _slice_indices(graph: Graph) -> list[str]:
    """x[:, 0], an index, as x[:, 0:1] and a reshape."""
    import torch

    aten = torch.ops.aten
    places = []
    for node in graph.calls(aten.select.int):
        source, axis = source_of(node), argument(node, 1)
        index = argument(node, 2) % shape(source)[axis]
        if shape(source)[axis] > 1:
            source = graph.call(aten.slice.Tensor, source, axis, index, index + 1, like=node)
        places.append(place(node))
        graph.replace(node, graph.call(aten.reshape.default, source, list(shape(node)), like=node))
    return places


def _slice_parts(graph: Graph) -> list[str]:
    """The parts that a split or chunk gives, as slices."""
    import torch

    aten = torch.ops.aten
    places = []
    for split in graph.calls(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default):
        source, axis = split.args[0], argument(split, 2, 0)
        sizes = [piece.shape[axis] for piece in split.meta["val"]]
        places.append(place(split))
        for item in list(split.users):
            part = argument(item, 1)
            start, size = sum(sizes[:part]), sizes[part]
            graph.replace(item, graph.call(aten.slice.Tensor, source, axis, start, start + size, like=item))
    return places


def _mean_on_maps(graph: Graph) -> list[str]:
    """The mean over the tokens of a feature map, computed on the feature map."""
    import torch

    aten = torch.ops.aten
    places = []
    for node in graph.calls(aten.mean.dim):
        rank = len(shape(node.args[0]))
        axes = {axis % rank for axis in argument(node, 1) or range(rank)}
        for nodes, together in chain(source_of(node)):
            source = source_of(nodes[-1])
            if node.kwargs or not together.moves or not _averages_pixels(together, axes):
                continue
            mean = graph.call(aten.mean.dim, source, [2, 3], True, like=node)
            pooled = Rearrangement.identity(shape(mean)).then(_pooled(together, axes, argument(node, 2, False)))
            assert pooled is not None  # every axis is the target's own, or a mean's of size 1
            places.append(place(node))
            graph.replace(node, pooled.emit(graph, mean, like=node))
            break
    return places


def _averages_pixels(together: Rearrangement, axes: set[int]) -> bool:
    """Whether `axes` of the target are the last two of a source of rank 4."""
    if len(together.source) != 4:
        return False
    averaged = {atom for axis in axes for atom in together.target_axes[axis]}
    return averaged == {atom for axis in together.source_axes[2:] for atom in axis}


def _pooled(together: Rearrangement, axes: set[int], keeps: bool) -> tuple[Step, ...]:
    """From the mean over the last two axes of the source to that over `axes` of the target."""
    source_shape = (*together.source_shape[:2], 1, 1)
    target_shape = tuple(
        1 if axis in axes else size for axis, size in enumerate(together.target_shape) if keeps or axis not in axes
    )
    rest = together.restricted(source_shape)
    assert rest is not None  # the averaged axes are whole axes of the target
    return (*rest.steps(), ("reshape", target_shape))
