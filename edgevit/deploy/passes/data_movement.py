"""Rearrangement: what a chain of reshapes and permutations does, however the chain is written.

Every axis is a product of atoms, its smallest parts that move as a whole; a chain only splits axes into atoms, puts
the atoms in another order and merges them. So a chain can be written anew with at most one permutation, of runs of
atoms that stay together: a window partition by a view of rank 6 is the transposition of two axes of rank 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from edgevit.deploy.passes.remove_noops import permutation
from edgevit.export.program import MAX_RANK
from edgevit.graph.edit import MAP_RANK, Graph, elements, is_call, only_user, shape, source_of

if TYPE_CHECKING:
    from torch import Tensor, fx


# ("reshape", the new shape) or ("permute", the old axes in their new order).
Step = tuple[Literal["reshape", "permute"], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """A one-to-one mapping of a source's numbers to a target's, by atoms, which all are larger than 1.

    sizes: of the atoms, as the source counts them. source: how many atoms each axis of the source holds, 0 for one of
    size 1. order: the atoms as the target counts them. target: how many each of its axes holds.
    """

    sizes: tuple[int, ...]
    source: tuple[int, ...]
    order: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def identity(cls, sizes: Sequence[int]) -> Rearrangement:
        """Of a tensor of this shape."""
        atoms = tuple(size for size in sizes if size != 1)
        counts = tuple(int(size != 1) for size in sizes)
        return cls(atoms, counts, tuple(range(len(atoms))), counts)

    @property
    def source_axes(self) -> list[tuple[int, ...]]:
        """The atoms of each axis of the source."""
        return _parted(tuple(range(len(self.sizes))), self.source)

    @property
    def target_axes(self) -> list[tuple[int, ...]]:
        """The atoms of each axis of the target."""
        return _parted(self.order, self.target)

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape it takes."""
        return tuple(self._size(axis) for axis in self.source_axes)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape it gives."""
        return tuple(self._size(axis) for axis in self.target_axes)

    @property
    def moves(self) -> bool:
        """Whether numbers change places in memory."""
        return self.order != tuple(range(len(self.sizes)))

    @property
    def inverse(self) -> Rearrangement:
        """From the target back to the source."""
        order = tuple(self.order.index(atom) for atom in range(len(self.sizes)))
        return Rearrangement(tuple(self.sizes[atom] for atom in self.order), self.target, order, self.source)

    def permuted(self, axes: Sequence[int]) -> Rearrangement:
        """Followed by a permutation of the target's axes."""
        parts = self.target_axes
        order = tuple(atom for axis in axes for atom in parts[axis])
        return replace(self, order=order, target=tuple(len(parts[axis]) for axis in axes))

    def reshaped(self, sizes: Sequence[int]) -> Rearrangement | None:
        """Followed by a reshape of the target; None if that cuts through an atom at no divisor of its size."""
        result, counts, done = self, [], 0
        for size in sizes:
            left, start = size, done
            while left > 1:
                atom = result.order[done]
                have = result.sizes[atom]
                if max(have, left) % min(have, left):
                    return None
                if have > left:
                    result, have = result._split(atom, left), left
                left, done = left // have, done + 1
            counts.append(done - start)
        return replace(result, target=tuple(counts))

    def then(self, steps: Sequence[Step]) -> Rearrangement | None:
        """Followed by some reshapes and permutations; None if one of them cuts through an atom."""
        result: Rearrangement | None = self
        for kind, values in steps:
            if result is not None:
                result = result.reshaped(values) if kind == "reshape" else result.permuted(values)
        return result

    def restricted(self, sizes: Sequence[int]) -> Rearrangement | None:
        """The same for a source that broadcasts to the source: of this shape, each axis whole or 1.

        None if the result would not broadcast to the target.
        """
        axes = zip(self.source_axes, sizes, strict=True)
        kept = [atom for axis, size in axes for atom in axis if size != 1]
        if any(len({atom in kept for atom in axis}) > 1 for axis in self.target_axes):
            return None
        return Rearrangement(
            tuple(self.sizes[atom] for atom in kept),
            tuple(sum(atom in kept for atom in axis) for axis in self.source_axes),
            tuple(kept.index(atom) for atom in self.order if atom in kept),
            tuple(sum(atom in kept for atom in axis) for axis in self.target_axes),
        )

    def steps(self) -> tuple[Step, ...]:
        """The cheapest operations: as few as possible, permuting a feature map's four axes where there is a choice."""
        if not self.moves:
            return _reshape(self.source_shape, self.target_shape)
        forms = (self._permute_first(), self._permute_last(), self._by_runs())
        return min((form for form in forms if form is not None), key=steps_cost)

    def apply(self, value: Tensor) -> Tensor:
        """A tensor of the source's shape rearranged."""
        for kind, values in self.steps():
            value = value.reshape(values) if kind == "reshape" else value.permute(values)
        return value

    def emit(self, graph: Graph, source: fx.Node, like: fx.Node) -> fx.Node:
        """The operations as nodes in front of `like`; `source` itself if there are none."""
        import torch

        aten = torch.ops.aten
        for kind, values in self.steps():
            target = aten.reshape.default if kind == "reshape" else aten.permute.default
            source = graph.call(target, source, list(values), like=like)
        return source

    def _size(self, atoms: Sequence[int]) -> int:
        return math.prod(self.sizes[atom] for atom in atoms)

    def _split(self, atom: int, outer: int) -> Rearrangement:
        """One atom as two, the first of size `outer`; `target` stays behind."""
        parts = (outer, self.sizes[atom] // outer)
        ends = list(accumulate(self.source))
        owner = next(axis for axis, end in enumerate(ends) if atom < end)
        order = []
        for other in self.order:
            order += [atom, atom + 1] if other == atom else [other + (other > atom)]
        return Rearrangement(
            (*self.sizes[:atom], *parts, *self.sizes[atom + 1 :]),
            tuple(count + (axis == owner) for axis, count in enumerate(self.source)),
            tuple(order),
            self.target,
        )

    def _permute_first(self) -> tuple[Step, ...] | None:
        """A permutation of the source's own axes, then a reshape; None if an axis does not stay together."""
        axes = self.source_axes
        owner = [number for number, axis in enumerate(axes) for _ in axis]
        sequence = [owner[atom] for atom in self.order]
        runs = [number for before, number in pairwise([-1, *sequence]) if number != before]
        inside = all(b == a + 1 for a, b in pairwise(self.order) if owner[a] == owner[b])
        if len(runs) != len(set(runs)) or not inside:
            return None
        ones = [number for number, axis in enumerate(axes) if not axis]
        alike = len(axes) == len(self.target) and sorted(map(self._size, axes)) == sorted(self.target_shape)
        left, moving = list(ones), iter(runs)
        if alike:  # axes of size 1 stand where the target has them, so that no reshape is left to do
            order = [next(moving) if axis else left.pop(0) for axis in self.target_axes]
        else:  # or where they were
            order = [number if number in ones else next(moving) for number in range(len(axes))]
        permuted = tuple(self._size(axes[number]) for number in order)
        return (("permute", tuple(order)), *_reshape(permuted, self.target_shape))

    def _permute_last(self) -> tuple[Step, ...] | None:
        """A reshape, then a permutation that gives the target's own axes; None if one of those was not together."""
        backwards = self.inverse._permute_first()
        if backwards is None:
            return None
        order = backwards[0][1]
        before = tuple(self.target_shape[axis] for axis in order)
        back = tuple(order.index(axis) for axis in range(len(order)))
        return (*_reshape(self.source_shape, before), ("permute", back))

    def _by_runs(self) -> tuple[Step, ...]:
        """A reshape to runs of atoms that stay together, a permutation of those, a reshape to the target."""
        runs: list[list[int]] = []
        for atom in self.order:
            if runs and runs[-1][-1] == atom - 1:
                runs[-1].append(atom)
            else:
                runs.append([atom])
        lying = sorted(runs)
        order = tuple(lying.index(run) for run in runs)
        sizes = tuple(self._size(run) for run in lying)
        if len(runs) < MAP_RANK and self.source[:1] == self.target[:1] == (0,):  # a batch of one stays in front
            order, sizes = (0, *(axis + 1 for axis in order)), (1, *sizes)
        permuted = tuple(sizes[axis] for axis in order)
        return (
            *_reshape(self.source_shape, sizes),
            ("permute", order),
            *_reshape(permuted, self.target_shape),
        )


def steps_cost(steps: Sequence[Step]) -> tuple[int, int, int, int]:
    """Ranks that no program may have, permutations that move data, operations, and permutations of another rank than 4.

    Where feature maps lie channels-last, permuting one to pixels (N, H, W, C) or back moves no data.
    """
    permutes = [values for kind, values in steps if kind == "permute"]
    return (
        sum(len(values) > MAX_RANK for _, values in steps),
        len(permutes) - begins_with_pixels(steps) - ends_with_map(steps),
        len(steps),
        sum(len(values) != MAP_RANK for values in permutes),
    )


def begins_with_pixels(steps: Sequence[Step]) -> bool:
    """Whether the first operation permutes a feature map (N, C, H, W) to pixels (N, H, W, C)."""
    return bool(steps) and steps[0] == ("permute", (0, 2, 3, 1))


def ends_with_map(steps: Sequence[Step]) -> bool:
    """Whether the last operation permutes pixels (N, H, W, C) to a feature map (N, C, H, W)."""
    return bool(steps) and steps[-1] == ("permute", (0, 3, 1, 2))


def node_step(node: fx.Node) -> Step | None:
    """What a node does to its source if it only rearranges; one that moves nothing is a reshape."""
    import torch

    aten = torch.ops.aten
    if is_call(node, aten.permute.default, aten.transpose.int):
        order = tuple(permutation(node))
        moving = [axis for axis in order if shape(node.args[0])[axis] != 1]
        return ("permute", order) if moving != sorted(moving) else ("reshape", shape(node))
    reshapes = (
        aten.reshape.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.flatten.using_ints,
    )
    return ("reshape", shape(node)) if is_call(node, *reshapes) else None


def ends_chain(node: fx.Node) -> bool:
    """Whether a node rearranges and its only user is not one more such node."""
    user = only_user(node)
    return node_step(node) is not None and (user is None or node_step(user) is None)


def chain(node: fx.Node) -> Iterator[tuple[list[fx.Node], Rearrangement]]:
    """The rearranging nodes that end in `node`, last first, one more each time, and what they do together."""
    nodes: list[fx.Node] = []
    steps: list[Step] = []
    while (step := node_step(node)) is not None and elements(node):
        nodes, steps = [*nodes, node], [step, *steps]
        together = Rearrangement.identity(shape(node.args[0])).then(steps)
        if together is None:
            return
        yield nodes, together
        node = source_of(node)


def _parted(atoms: tuple[int, ...], counts: tuple[int, ...]) -> list[tuple[int, ...]]:
    ends = list(accumulate(counts))
    return [atoms[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _reshape(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Step, ...]:
    return () if before == after else (("reshape", after),)
