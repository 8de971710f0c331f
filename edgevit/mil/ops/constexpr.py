"""Compressed weights: constexpr_* operations turn stored integers, lookup tables and masks into dense tensors.

They run once, when the interpreter is built. iOS16 stores packed bytes with a shape beside them, iOS18 stores
typed tensors; where both exist, the presence of `shape` distinguishes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgevit.mil.package import DataType, decode
from edgevit.mil.table import ints, number, op, place


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """`count` unsigned values of `bits` bits each from bytes, low bits first, as uint8."""
    if packed.numel() * 8 < bits * count:
        raise ValueError(f"{packed.numel()} bytes do not hold {count} values of {bits} bits")
    return torch.from_numpy(decode(packed.numpy(), DataType(f"uint{bits}", bits, "<u1"), count))


def _spread(parameter: Tensor, shape: torch.Size) -> Tensor:
    """One value per block -> one per element: (s0, s1, ..) repeated to `shape`, which it divides."""
    for axis, size in enumerate(shape):
        repeats = size // parameter.shape[axis]
        if repeats > 1:
            parameter = parameter.repeat_interleave(repeats, axis)
    return parameter


def _given(parameter: Tensor | None, name: str) -> Tensor:
    """A parameter that MIL lets a program leave out where nothing needs it."""
    if parameter is None:
        raise ValueError(f"{name} is missing")
    return parameter


@op
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    rank, along = quantized_data.ndim, number(axis)
    zero = place(zero_point.to(scale.dtype), along, rank)
    return place(scale, along, rank) * (quantized_data.to(scale.dtype) - zero)


@op
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), with a scale and an offset for each block of data."""
    values = data.to(scale.dtype)
    if offset is not None:
        values = values - _spread(offset.to(scale.dtype), data.shape)
    return values * _spread(scale, data.shape)


@op
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val


def _from_palettes(indices: Tensor, lut: Tensor, vector_axis: Tensor | None) -> Tensor:
    """indices (i0, ..), lut (g0, .., palette, vector): each g divides its i and picks the block's lookup table.

    A vector longer than 1 fills that many consecutive places of `vector_axis`.
    """
    palettes, width = lut.shape[-2:]
    group = torch.arange(math.prod(lut.shape[:-2])).reshape(lut.shape[:-2])
    rows = _spread(group, indices.shape) * palettes + indices.long()
    dense = lut.reshape(-1, width)[rows]  # (i0, .., vector)
    if width == 1:
        return dense.squeeze(-1)
    axis = number(_given(vector_axis, "vector_axis")) % indices.ndim
    return dense.movedim(-1, axis + 1).flatten(axis, axis + 1)


@op
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    if shape is None:
        return _from_palettes(indices, lut, vector_axis)
    sizes = ints(shape)
    return lut[_unpacked(indices, int(math.log2(lut.numel())), math.prod(sizes)).int()].reshape(sizes)


def _densified(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    """Values at the places where the mask is set, in row-major order; zero elsewhere."""
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@op
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    if shape is not None:
        sizes = ints(shape)
        mask = _unpacked(mask, 1, math.prod(sizes)).reshape(sizes)
    return _densified(nonzero_data, mask)


@op
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(mask, non-zero values) after the lookup; a table of vectors widens both along its axis."""
    dense = _from_palettes(_densified(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = mask.repeat_interleave(lut.shape[-1], number(_given(vector_axis, "vector_axis")))
    return mask, dense[mask != 0]


@op
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(mask, non-zero values) after scale * (data - offset)."""
    dense = constexpr_blockwise_shift_scale(_densified(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]
