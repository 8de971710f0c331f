"""Axis orders: how a tensor lies in the file, against the axes of the graph.

A logical axis is what ATen counts (NCHW feature maps); an order lists the logical axis that each axis in the file
holds: (0, 2, 3, 1) is a feature map kept as NHWC. Transposes then only relabel, and data moves only where an op needs
it. Nothing here guesses from sizes: a feature map with C = H = W is like any other. Axes of size 1 hold no data and may
stand anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Order = tuple[int, ...]
Shape = tuple[int, ...]

CHANNELS_LAST: Order = (0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the file (by its index) seen through an order; `shape` is logical."""

    tensor: int
    shape: Shape
    order: Order

    @property
    def stored_shape(self) -> Shape:
        """The shape as the file has it."""
        return stored(self.shape, self.order)


def identity(rank: int) -> Order:
    """The order that keeps the axes as the graph counts them."""
    return tuple(range(rank))


def stored(shape: Sequence[int], order: Order) -> Shape:
    """A logical shape as the file has it under `order`."""
    return tuple(shape[axis] for axis in order)


def moves_data(shape: Sequence[int], source: Order, target: Order) -> bool:
    """Whether going from one order to another reorders elements: not if only axes of size 1 change places."""
    return _with_data(shape, source) != _with_data(shape, target)


def extended(value: Value, rank: int) -> Value:
    """`value` with axes of size 1 in front, as broadcasting adds them. The data stays."""
    added = rank - len(value.shape)
    order = identity(added) + tuple(axis + added for axis in value.order)
    return Value(value.tensor, (1,) * added + value.shape, order)


def permuted(value: Value, axes: Sequence[int]) -> Value:
    """`value` with its logical axes in another sequence, as aten.permute. The data stays."""
    return Value(value.tensor, stored(value.shape, tuple(axes)), tuple(axes.index(axis) for axis in value.order))


def without(order: Order, axes: Sequence[int]) -> Order:
    """The order after logical `axes` are removed and the others renumbered."""
    kept = [axis for axis in order if axis not in axes]
    return tuple(sorted(kept).index(axis) for axis in kept)


def with_last(order: Order, axis: int) -> Order:
    """The same order with logical `axis` innermost."""
    return (*(a for a in order if a != axis), axis)


def plan_reshape(shape: Shape, order: Order, new_shape: Shape) -> tuple[Order, Order]:
    """Orders before and after a reshape such that the elements in the file keep their sequence.

    The axes fall into groups that a reshape merges or splits as a whole (C -> heads x C/heads, H x W -> HW). Groups
    may lie in any sequence; inside a group the axes must lie in theirs, else the first order differs from `order`.
    """
    groups = _groups(shape, new_shape)
    lying = _with_data(shape, order)
    # By where each group ends: if elements must move, the innermost axis stays innermost and rows move whole.
    groups.sort(key=lambda group: max(lying.index(axis) for axis in group[0]))
    before = [axis for axes, _ in groups for axis in axes]
    needed = order if before == lying else _completed(shape, before)
    return needed, _completed(new_shape, [axis for _, axes in groups for axis in axes])


def _with_data(shape: Sequence[int], order: Order) -> list[int]:
    return [axis for axis in order if shape[axis] != 1]


def _groups(shape: Shape, new_shape: Shape) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes, without those of size 1, whose sizes have the same product on both sides."""
    old, new = _with_data(shape, identity(len(shape))), _with_data(new_shape, identity(len(new_shape)))
    groups = []
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        left_size, right_size = shape[left[0]], new_shape[right[0]]
        while left_size != right_size:
            if left_size < right_size:
                left.append(old.pop(0))
                left_size *= shape[left[-1]]
            else:
                right.append(new.pop(0))
                right_size *= new_shape[right[-1]]
        groups.append((left, right))
    return groups


def _completed(shape: Shape, lying: list[int]) -> Order:
    """A full order whose axes with data lie as given; those of size 1 go where runtimes expect them."""
    usual = [identity(len(shape))]
    if len(shape) == 4:
        pooled = shape[2:] == (1, 1)  # a vector per channel: it will meet channels-last feature maps
        usual.insert(0 if pooled else 1, CHANNELS_LAST)
    for order in usual:
        if _with_data(shape, order) == lying:
            return order
    return tuple(axis for axis in range(len(shape)) if shape[axis] == 1) + tuple(lying)
