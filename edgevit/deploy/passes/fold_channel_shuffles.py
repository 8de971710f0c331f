"""Grouped 1x1 convolutions and the channel shuffles between them, as plain convolutions.

A shuffle only names channels anew: the convolution whose result is shuffled can give its channels in that order, or
the one that reads it can expect them in the old one. Kernels for grouped 1x1 convolutions are often so slow that a
plain one with zeros between the groups is faster, and only a plain one can take up a shuffle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgevit.deploy.passes.data_movement import Rearrangement, chain, ends_chain
from edgevit.graph.edit import (
    MAP_RANK,
    Graph,
    argument,
    is_call,
    is_depthwise,
    is_norm_result,
    only_user,
    place,
    shape,
    source_of,
)
from edgevit.graph.elementwise import operands

if TYPE_CHECKING:
    from torch import Tensor, fx

    from edgevit.deploy.cost_model import Costs


@dataclass(frozen=True)
class DensePointwise:
    """Turns grouped 1x1 convolutions into plain ones, with zeros between the groups, where that is cheaper."""

    name: str = "dense_pointwise"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each convolution that is plain now."""
        import torch

        convolutions = graph.calls(torch.ops.aten.conv2d.default)
        return graph.rewrite_each(convolutions, lambda conv: _densify(graph, conv, costs))


@dataclass(frozen=True)
class FoldChannelShuffles:
    """Lets the convolution in front of a channel shuffle, or else those behind it, reorder its channels."""

    name: str = "fold_channel_shuffles"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each shuffle that is gone."""
        return graph.rewrite_each(graph.nodes, lambda node: _fold(graph, node))


DENSE_POINTWISE = DensePointwise()
FOLD_CHANNEL_SHUFFLES = FoldChannelShuffles()


def _densify(graph: Graph, conv: fx.Node, costs: Costs) -> bool:
    import torch

    weight, groups = graph.value(conv.args[1]), argument(conv, 6, 1)
    if weight is None or groups == 1 or math.prod(weight.shape[2:]) != 1:
        return False
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    grouped = groups * costs.grouped(inputs, outputs)  # one pixel
    if inputs == 1 or costs.mac * groups * inputs * groups * outputs >= grouped:  # one input per group is depthwise
        return False
    dense = torch.block_diag(*weight[:, :, 0, 0].chunk(groups))[:, :, None, None]  # (O, I, 1, 1)
    name = f"{place(conv)}_weight"
    conv.args = (conv.args[0], graph.constant(dense, name), *conv.args[2:6], 1)
    return True


def _fold(graph: Graph, node: fx.Node) -> bool:
    if not ends_chain(node):
        return False
    for nodes, view in reversed(list(chain(node))):  # the longest first: it leaves the fewest views
        source = source_of(nodes[-1])
        exclusive = all(only_user(inner) is not None for inner in nodes[1:])
        if exclusive and _into_producer(graph, node, source, view):
            return True
        if _into_users(graph, node, source, view):
            return True
    return False


def _into_producer(graph: Graph, node: fx.Node, source: fx.Node, view: Rearrangement) -> bool:
    """The convolution that produces the source of a chain gives its channels in the new order."""
    shuffle = _shuffle(view)
    if shuffle is None or not _can_reorder(graph, source):
        return False
    order, rest = shuffle
    _reorder(graph, source, order, set())
    graph.replace(node, rest.emit(graph, source, like=node))
    return True


def _into_users(graph: Graph, node: fx.Node, source: fx.Node, view: Rearrangement) -> bool:
    """The convolutions that read the end of a chain expect its channels in the old order."""
    shuffle = _shuffle(view.inverse)
    if shuffle is None or not all(_is_dense_user(graph, node, user) for user in node.users):
        return False
    order, rest = shuffle
    for conv in list(node.users):
        _set_weights(graph, conv, graph.constant_value(conv.args[1])[:, order], argument(conv, 2, None))
    graph.replace(node, rest.inverse.emit(graph, source, like=node))
    return True


def _shuffle(view: Rearrangement) -> tuple[Tensor, Rearrangement] | None:
    """A view of a feature map that reorders its channels among themselves, in two parts.

    (C,), the channel that comes to stand at each place, and what is left of the view then.
    """
    import torch

    if len(view.source) != MAP_RANK:
        return None
    channels = view.source_axes[1]
    places = [place for place, atom in enumerate(view.order) if atom in channels]
    shuffled = tuple(view.order[place] for place in places)
    if shuffled == channels or places != list(range(places[0], places[0] + len(places))):
        return None
    sizes = tuple(view.sizes[atom] for atom in channels)
    order = torch.arange(math.prod(sizes)).reshape(sizes).permute([channels.index(atom) for atom in shuffled]).flatten()
    sizes = (*view.sizes[: channels[0]], *(view.sizes[atom] for atom in shuffled), *view.sizes[channels[-1] + 1 :])
    lying = (*view.order[: places[0]], *channels, *view.order[places[-1] + 1 :])
    return order, replace(view, sizes=sizes, order=lying)


def _can_reorder(graph: Graph, node: fx.Node) -> bool:
    """Whether the channels of a result, which one node alone reads, can come in any order."""
    import torch

    if only_user(node) is None:
        return False
    if is_call(node, torch.ops.aten.conv2d.default):
        if any(value is not None and graph.value(value) is None for value in (node.args[1], argument(node, 2, None))):
            return False
        return argument(node, 6, 1) == 1 or (is_depthwise(node) and _can_reorder(graph, source_of(node)))
    if is_norm_result(node):
        norm = source_of(node)
        constant = all(value is None or graph.value(value) is not None for value in norm.args[1:5])
        return constant and only_user(norm) is node and _can_reorder(graph, source_of(norm))
    read = operands(node)
    return read is not None and all(
        graph.value(operand) is not None
        or _channels(operand, node) == 1
        or (len(shape(operand)) == MAP_RANK and _can_reorder(graph, operand))
        for operand in read
    )


def _reorder(graph: Graph, node: fx.Node, order: Tensor, done: set[fx.Node]) -> None:
    """Let a result that can be reordered have channel order[i] at place i."""
    import torch

    if node in done:
        return
    done.add(node)
    if is_call(node, torch.ops.aten.conv2d.default):
        bias = argument(node, 2, None)
        own = None if bias is None else graph.constant(graph.constant_value(bias)[order], f"{place(node)}_bias")
        _set_weights(graph, node, graph.constant_value(node.args[1])[order], own)
        if argument(node, 6, 1) != 1:
            _reorder(graph, source_of(node), order, done)
    elif is_norm_result(node):
        norm = source_of(node)
        values = [
            value if value is None else graph.constant(graph.constant_value(value)[order], f"{place(norm)}_norm")
            for value in norm.args[1:5]
        ]
        norm.args = (norm.args[0], *values, *norm.args[5:])
        _reorder(graph, source_of(norm), order, done)
    else:
        for operand in operands(node) or ():
            if _channels(operand, node) == 1:
                continue
            if (value := graph.value(operand)) is None:
                _reorder(graph, operand, order, done)
                continue
            axis = 1 - len(shape(node))  # channels, counted from the end
            own = graph.constant(value.index_select(axis, order), f"{place(node)}_constant")
            node.replace_input_with(operand, own)


def _set_weights(graph: Graph, conv: fx.Node, weight: Tensor, bias: fx.Node | None) -> None:
    """New constants, so that another convolution may go on with the old ones."""
    name = f"{place(conv)}_weight"
    conv.args = (conv.args[0], graph.constant(weight, name), bias, *conv.args[3:])


def _channels(operand: fx.Node, node: fx.Node) -> int:
    """How many channels an operand has once it is broadcast to the rank of the result."""
    sizes = shape(operand)
    axis = 1 - len(shape(node)) + len(sizes)
    return sizes[axis] if axis >= 0 else 1


def _is_dense_user(graph: Graph, node: fx.Node, user: fx.Node) -> bool:
    """Whether a user is a plain convolution of the node with constant weights."""
    import torch

    if not is_call(user, torch.ops.aten.conv2d.default) or user.args[0] is not node:
        return False
    return argument(user, 6, 1) == 1 and graph.value(user.args[1]) is not None
