"""Moves permutations through elementwise operations to where they cancel.

An activation or a sum of two tensors permuted alike is the same before the permutation as behind it. So a region of
elementwise operations may be computed on the numbers as they lie in front of a view; that pays if fewer numbers move
than before, because the views at the region's other ends are undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgevit.deploy.passes.data_movement import Rearrangement, chain, ends_chain, node_step
from edgevit.deploy.passes.simplify_views import shorten_chains
from edgevit.graph.edit import Graph, elements, only_user, place, shape, source_of
from edgevit.graph.elementwise import operands

if TYPE_CHECKING:
    from torch import fx

    from edgevit.deploy.cost_model import Costs

_MAX_REGION_RANK = 4  # elementwise kernels for more axes are slow or missing


@dataclass(frozen=True)
class MovePermutes:
    """Computes elementwise operations in front of a view where fewer numbers then move."""

    name: str = "move_permutes"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each view that was moved."""
        places = []
        for node in graph.nodes:
            views = [view for _, view in chain(node)] if ends_chain(node) else []
            if not views or not views[-1].moves or len(views[-1].source) > _MAX_REGION_RANK:
                continue
            move = _Move(graph, views[-1], _region(node))
            if move.pays():
                places.append(place(node))
                move.carry_out()
                shorten_chains(graph)
        graph.tidy()
        return places


MOVE_PERMUTES = MovePermutes()


def _region(view: fx.Node) -> list[fx.Node]:
    """The elementwise operations on tensors of the view's shape that are connected to it, in execution order."""
    found: set[fx.Node] = set()
    todo = list(view.users)
    while todo:
        node = todo.pop()
        read = operands(node)
        if node in found or read is None or node.kwargs or shape(node) != shape(view):
            continue
        found.add(node)
        todo += [*node.users, *read]
    return [node for node in view.graph.nodes if node in found]


@dataclass
class _Move:
    """A region computed on the numbers as they lie in front of `view`."""

    graph: Graph
    view: Rearrangement
    region: list[fx.Node]
    inside: set[fx.Node] = field(init=False)

    def __post_init__(self) -> None:
        self.inside = set(self.region)

    def pays(self) -> bool:
        """Whether fewer numbers move than before; False too if an operand cannot come along."""
        before = after = 0
        for operand in self._read():
            brought = self._brought(operand)
            if brought is None:
                return False
            if self.graph.value(operand) is None:
                after += elements(operand) * brought[1].moves
                before += self._freed(operand)
        for node in self.region:
            users = [user for user in node.users if user not in self.inside]
            after += elements(node) * any(node_step(user) is None for user in users)
            for user in users:
                undone, nodes = self._undone(user)
                before += elements(node) * any(_moves(inner) for inner in nodes)
                after += elements(node) * bool(nodes and not undone)
        return after < before

    def carry_out(self) -> None:
        """Write the region anew in front of the view, and the view behind it."""
        from torch import fx

        moved: dict[fx.Node, fx.Node] = {}
        for node in self.region:
            for operand in operands(node) or ():
                if operand not in moved:
                    moved[operand] = self._bring(operand, like=node)
            args = fx.map_arg(node.args, moved.__getitem__)
            moved[node] = self.graph.call(node.target, *args, like=node)
        for node in self.region:
            if any(user not in self.inside for user in node.users):
                self.graph.replace(node, self.view.emit(self.graph, moved[node], like=node))

    def _read(self) -> Iterator[fx.Node]:
        """What the region reads from outside, each once."""
        yield from dict.fromkeys(o for node in self.region for o in operands(node) or () if o not in self.inside)

    def _brought(self, operand: fx.Node) -> tuple[fx.Node, Rearrangement] | None:
        """A node and the rearrangement by which an operand lies as in front of the view."""
        sizes = shape(operand)
        padded = (1,) * (len(self.view.target) - len(sizes)) + sizes
        back = self.view.inverse.restricted(padded)
        if back is None:
            return None
        for nodes, together in reversed(list(chain(operand))):
            if (longer := together.reshaped(padded)) and (longer := longer.then(back.steps())):
                return source_of(nodes[-1]), longer
        alone = Rearrangement.identity(sizes).reshaped(padded)
        moved = None if alone is None else alone.then(back.steps())
        return None if moved is None else (operand, moved)

    def _bring(self, operand: fx.Node, like: fx.Node) -> fx.Node:
        brought = self._brought(operand)
        assert brought is not None  # or the move would not pay
        source, together = brought
        value = self.graph.value(source)
        if value is None:
            return together.emit(self.graph, source, like=like)
        return self.graph.constant(together.apply(value), f"{place(like)}_constant")

    def _undone(self, consumer: fx.Node) -> tuple[bool, list[fx.Node]]:
        """Whether the views that start at a user of the region undo the view, and those views."""
        last = consumer
        while (user := only_user(last)) is not None and node_step(user) is not None:
            last = user
        for nodes, together in chain(last):
            if nodes[-1] is consumer:
                both = self.view.then(together.steps())
                return both is not None and not both.moves, nodes
        return False, [consumer] if node_step(consumer) is not None else []

    def _freed(self, operand: fx.Node) -> int:
        """How many numbers no longer move if the region does not read this operand."""
        if any(user not in self.inside for user in operand.users):
            return 0
        freed = 0
        while node_step(operand) is not None:
            freed += elements(operand) * _moves(operand)
            operand = source_of(operand)
            if only_user(operand) is None:
                break
        return freed


def _moves(node: fx.Node) -> bool:
    step = node_step(node)
    return step is not None and step[0] == "permute"
