"""Operations on positions: gather, scatter, sorting, and selection of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgevit.errors import UsageError
from edgevit.mil.table import number, op, place

# torch's names of the reductions that MIL calls by another name; sub and div are derived from sum and prod.
_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positions(indices: Tensor, size: int, validate: Tensor | bool) -> Tensor:
    """Indices as non-negative int64. Raises UsageError for one out of range.

    Negative ones count from the end, as before iOS17, unless the program asks for validation. From iOS17 an index
    out of range without validation is undefined; nothing that this returned would be a reference.
    """
    indices = indices.long()
    lowest = 0 if number(validate) else -size
    if ((indices < lowest) | (indices >= size)).any():
        raise UsageError(f"an index is outside {lowest}..{size - 1}")
    return torch.where(indices < 0, indices + size, indices)


@op
def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """x (*B, *P, M, *Q), indices (*B, *N) -> (*B, *P, *N, *Q), where M is at `axis`."""
    along, batch = number(axis) % x.ndim, number(batch_dims)
    indices = _positions(indices, x.shape[along], validate_indices)
    result_shape = x.shape[:along] + indices.shape[batch:] + x.shape[along + 1 :]
    if batch == 0:
        return x.index_select(along, indices.reshape(-1)).reshape(result_shape)
    batches = math.prod(x.shape[:batch])
    outer, inner = math.prod(x.shape[batch:along]), math.prod(x.shape[along + 1 :])
    x = x.reshape(batches, outer, x.shape[along], inner)
    taken = x[torch.arange(batches)[:, None], :, indices.reshape(batches, -1)]  # (batches, N, outer, inner)
    return taken.transpose(1, 2).reshape(result_shape)


@op
def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Tensor | bool = False
) -> Tensor:
    along = number(axis)
    return torch.gather(x, along, _positions(indices, x.shape[along], validate_indices))


def _linear(indices: Tensor, sizes: torch.Size, validate: Tensor | bool) -> Tensor:
    """indices (..., depth) into axes of these sizes -> (...) positions in their flattened product."""
    flat = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for depth, size in enumerate(sizes):
        flat = flat * size + _positions(indices[..., depth], size, validate)
    return flat


@op
def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | int = 0, validate_indices: Tensor | bool = False
) -> Tensor:
    """x (*B, *M, *Q), indices (*B, *N, depth) with depth = rank of M -> (*B, *N, *Q)."""
    batch, depth = number(batch_dims), indices.shape[-1]
    batches, addressed = math.prod(x.shape[:batch]), x.shape[batch : batch + depth]
    flat = _linear(indices.reshape(batches, -1, depth), addressed, validate_indices)  # (batches, N)
    rows = x.reshape(batches, math.prod(addressed), -1)
    taken = rows[torch.arange(batches)[:, None], flat]
    return taken.reshape(indices.shape[:-1] + x.shape[batch + depth :])


def _scatter(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    """data with updates combined in at index (same shape as updates) along axis; repeated places combine in turn."""
    updates = updates.to(data.dtype)
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        return data.scatter_reduce(axis, index, -updates, "sum")
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return data / divisor if data.is_floating_point() else torch.div(data, divisor, rounding_mode="trunc")
    return data.scatter_reduce(axis, index, updates, _REDUCE[mode])


def _scatter_rows(data: Tensor, rows: Tensor, updates: Tensor, mode: str) -> Tensor:
    """data (R, ...), rows (N,), updates (N, ...) -> (R, ...)."""
    return _scatter(data, 0, place(rows, 0, data.ndim).expand(updates.shape), updates, mode)


@op
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """indices (N,) address slices of data along `axis`; updates has N in place of that axis."""
    along = number(axis) % data.ndim
    rows = _positions(indices, data.shape[along], validate_indices).reshape(-1)
    moved = updates.reshape(data.shape[:along] + rows.shape + data.shape[along + 1 :]).movedim(along, 0)
    return _scatter_rows(data.movedim(along, 0), rows, moved, mode).movedim(0, along)


@op
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    along = number(axis)
    return _scatter(data, along, _positions(indices, data.shape[along], validate_indices), updates, mode)


@op
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: Tensor | bool = False
) -> Tensor:
    """indices (*N, depth) address slices of data (*M, *Q) with depth = rank of M; updates (*N, *Q)."""
    addressed = data.shape[: indices.shape[-1]]
    rows = _linear(indices, addressed, validate_indices).reshape(-1)
    flat = data.reshape(math.prod(addressed), -1)
    return _scatter_rows(flat, rows, updates.reshape(len(rows), -1), mode).reshape(data.shape)


@op
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


@op
def argsort(x: Tensor, axis: Tensor | int = -1, ascending: Tensor | bool = False) -> Tensor:
    """Equal values keep their order."""
    return torch.argsort(x, dim=number(axis), descending=not number(ascending), stable=True)


@op
def topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,
    sort: Tensor | bool = True,
    return_indices: Tensor | bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The k largest (smallest if ascending), sorted whether asked for or not; k = -1 keeps all."""
    along, count = number(axis), number(k)
    values, indices = torch.sort(x, dim=along, descending=not number(ascending), stable=True)
    count = x.shape[along] if count == -1 else count
    kept = values.narrow(along, 0, count), indices.narrow(along, 0, count)
    return kept if number(return_indices) else kept[:1]


def _overlaps(boxes: Tensor) -> Tensor:
    """boxes (n, 4) as centre x, centre y, width, height -> intersection over union (n, n)."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    sides = torch.minimum(high[:, None], high[None]) - torch.maximum(low[:, None], low[None])
    shared = sides.clamp(min=0).prod(-1)
    area = boxes[:, 2] * boxes[:, 3]
    return shared / (area[:, None] + area[None] - shared)


def _selected_boxes(boxes: Tensor, scores: Tensor, iou: float, floor: float, count: int, per_class: bool) -> list[int]:
    """Indices of the boxes that survive, best first; the best box survives whatever its score."""
    best, classes = scores.max(-1)
    overlapping = _overlaps(boxes) > iou
    if per_class:
        overlapping &= classes[:, None] == classes[None]
    alive = best > floor
    kept: list[int] = []
    for candidate in torch.argsort(best, descending=True, stable=True).tolist():
        if alive[candidate] and len(kept) < count:
            kept.append(candidate)
            alive &= ~overlapping[candidate]
    return kept or [int(best.argmax())]


@op
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor,
    max_boxes: Tensor,
    score_threshold: Tensor | float = -math.inf,
    per_class_suppression: Tensor | bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """boxes (N, B, 4), scores (N, B, K) -> boxes (N, M, 4), scores (N, M, K), indices (N, M), counts (N,).

    Places beyond the count hold zeros, and -1 as the index.
    """
    count = number(max_boxes)
    out_boxes = boxes.new_zeros(boxes.shape[0], count, 4)
    out_scores = scores.new_zeros(boxes.shape[0], count, scores.shape[-1])
    out_indices = torch.full((boxes.shape[0], count), -1)
    counts = torch.zeros(boxes.shape[0], dtype=torch.long)
    limits = number(iou_threshold), number(score_threshold), count, bool(number(per_class_suppression))
    for sample in range(boxes.shape[0]):
        kept = _selected_boxes(boxes[sample], scores[sample], *limits)
        counts[sample] = len(kept)
        out_boxes[sample, : len(kept)] = boxes[sample, kept]
        out_scores[sample, : len(kept)] = scores[sample, kept]
        out_indices[sample, : len(kept)] = torch.tensor(kept)
    return out_boxes, out_scores, out_indices, counts
