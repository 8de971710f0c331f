"""Operations that move, cut or join values without computing: reshape, slice, concat, pad, tile and the like."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevit.mil.table import axes_of, bools, ints, last_axis_first, number, op, place


@op
def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """0 keeps the input's size at that position, counted from the last axis (1 beyond the first); -1 is inferred."""
    wanted = ints(shape)
    before = max(0, len(wanted) - x.ndim)
    aligned = (1,) * before + tuple(x.shape[x.ndim - len(wanted) + before :])
    return x.reshape([kept if size == 0 else size for size, kept in zip(wanted, aligned, strict=True)])


@op
def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    """The new shape is the concatenation of ref.shape[begin:end], to the last axis where the mask is set."""
    sizes: list[int] = []
    for reference, begin, end, to_last in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[number(begin) : None if number(to_last) else number(end)]
    return x.reshape(sizes)


@op
def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(ints(perm))


@op
def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    added = ints(axes)
    rank = x.ndim + len(added)
    for axis in sorted(axis % rank for axis in added):
        x = x.unsqueeze(axis)
    return x


@op
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    return x.squeeze(tuple(axes_of(axes, x.ndim)))


@op
def flatten2d(x: Tensor, axis: Tensor | int = 1) -> Tensor:
    axis = number(axis)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


@op
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@op
def concat(values: list[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    """Interleaved, position i of every value comes before position i + 1 of any."""
    along = number(axis)
    if not number(interleave):
        return torch.cat(values, along)
    along %= values[0].ndim
    return torch.stack(values, along + 1).flatten(along, along + 1)


@op
def stack(values: list[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(values, number(axis))


@op
def split(x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None) -> tuple:
    along = number(axis)
    if split_sizes is not None:
        return torch.split(x, ints(split_sizes), along)
    if num_splits is None:
        raise ValueError("num_splits or split_sizes is missing")
    return torch.split(x, x.shape[along] // number(num_splits), along)


@op
def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(ints(reps))


@op
def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(axes_of(axes, x.ndim))


@op
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: Tensor | int = 0, batch_axis: Tensor | int = 0) -> Tensor:
    """Reverse the first lengths[b] positions of `seq_axis` in each batch element b."""
    seq, batch = number(seq_axis) % x.ndim, number(batch_axis) % x.ndim
    moved = x.movedim((batch, seq), (0, 1))  # (B, S, ...)
    steps = torch.arange(moved.shape[1])
    lengths = lengths.long()[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (B, S)
    rows = torch.arange(moved.shape[0])[:, None]
    return moved[rows, source].movedim((0, 1), (batch, seq))


@op
def sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | int = 1) -> Tensor:
    along = number(axis) % x.ndim
    return x.unfold(along, number(size), number(stride)).movedim(-1, along + 1)


@op
def band_part(x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    """Keep `lower` diagonals below and `upper` above the main one in the last two axes; negative keeps all."""
    below, above = number(lower), number(upper)
    if below >= 0:
        x = torch.triu(x, -below)
    return torch.tril(x, above) if above >= 0 else x


@op
def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    """`pad` holds (before, after) for each of the last axes, first axis first."""
    amounts = ints(pad)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, last_axis_first(pairs), value=number(constant_val))
    for axis, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        if before or after:
            x = x.index_select(axis, _source_positions(x.shape[axis], before, after, mode))
    return x


def _source_positions(size: int, before: int, after: int, mode: str) -> Tensor:
    """Where each position of a padded axis comes from: the edge (replicate) or its mirror without it (reflect)."""
    positions = torch.arange(-before, size + after)
    if mode == "replicate":
        return positions.clamp(0, size - 1)
    period = max(1, 2 * (size - 1))
    positions = positions.remainder(period)
    return torch.minimum(positions, period - positions) if size > 1 else torch.zeros_like(positions)


def _cut(
    shape: torch.Size, begin: Tensor, end: Tensor, stride: Tensor | None, masks: tuple[Tensor | None, ...]
) -> tuple[list[slice], list[int], list[int]]:
    """numpy-style bounds as (slices with positive steps, axes to flip afterwards, axes to drop)."""
    rank = len(shape)
    begins, ends = ints(begin), ints(end)
    steps = [1] * rank if stride is None else ints(stride)
    from_first, to_last, drop = (bools(mask, rank) for mask in masks)
    slices, flips, drops = [], [], []
    for axis, size in enumerate(shape):
        if drop[axis]:
            first = begins[axis] % size
            slices.append(slice(first, first + 1))
            drops.append(axis)
            continue
        bounds = slice(None if from_first[axis] else begins[axis], None if to_last[axis] else ends[axis], steps[axis])
        positions = range(*bounds.indices(size))
        if positions.step < 0 and len(positions):
            flips.append(axis)
            positions = positions[::-1]
        slices.append(slice(positions.start, max(positions.stop, positions.start), abs(positions.step)))
    return slices, flips, drops


@op
def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    slices, flips, drops = _cut(x.shape, begin, end, stride, (begin_mask, end_mask, squeeze_mask))
    cut = x[tuple(slices)]
    if flips:
        cut = cut.flip(flips)
    return cut.squeeze(tuple(drops)) if drops else cut


@op
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    slices, flips, drops = _cut(x.shape, begin, end, stride, (begin_mask, end_mask, squeeze_mask))
    result = x.clone()
    for axis in drops:
        update = update.unsqueeze(axis)
    result[tuple(slices)] = update.flip(flips) if flips else update
    return result


@op
def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """A negative begin counts from the end, size -1 takes the rest."""
    slices = []
    for length, first, count in zip(x.shape, ints(begin), ints(size), strict=True):
        first = first + length if first < 0 else first
        slices.append(slice(first, length if count == -1 else first + count))
    return x[tuple(slices)]


@op
def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """(N, b*b*C, H, W) -> (N, C, b*H, b*W); the block index is the slow part of the channel, as in TensorFlow."""
    block = number(block_size)
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // block**2, h * block, w * block)


@op
def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """(N, C, b*H, b*W) -> (N, b*b*C, H, W): the inverse of depth_to_space."""
    block = number(block_size)
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * block**2, h // block, w // block)


@op
def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    return F.pixel_shuffle(x, number(upscale_factor))


@op
def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    return F.pixel_unshuffle(x, number(downscale_factor))


@op
def space_to_batch(x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    """(N, C, H, W) -> (bh*bw*N, C, H'/bh, W'/bw) of the zero-padded input."""
    bh, bw = ints(block_shape)
    top, bottom, left, right = ints(paddings)
    x = F.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // bh, bh, w // bw, bw).permute(3, 5, 0, 1, 2, 4)
    return x.reshape(bh * bw * n, c, h // bh, w // bw)


@op
def batch_to_space(x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    """(bh*bw*N, C, H, W) -> (N, C, bh*H - crops, bw*W - crops): the inverse of space_to_batch."""
    bh, bw = ints(block_shape)
    top, bottom, left, right = ints(crops)
    n, c, h, w = x.shape
    n //= bh * bw
    x = x.reshape(bh, bw, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, h * bh, w * bw)
    return x[:, :, top : h * bh - bottom, left : w * bw - right]


@op
def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return _filled(ints(shape), value)


@op
def fill_like(ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return _filled(list(ref_tensor.shape), value)


def _filled(sizes: list[int], value: Tensor | float) -> Tensor:
    value = value if isinstance(value, Tensor) else torch.tensor(value)
    return value.reshape([1] * len(sizes)).expand(sizes)


@op
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return torch.arange(number(start), number(end), number(step))


@op
def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    along = number(axis) % (indices.ndim + 1)
    positions = torch.arange(number(one_hot_vector_size))
    hot = indices.unsqueeze(along) == place(positions, along, indices.ndim + 1)
    return torch.where(hot, torch.as_tensor(on_value), torch.as_tensor(off_value))
