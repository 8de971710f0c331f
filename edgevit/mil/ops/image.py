"""Resizing, cropping and resampling of images (N, C, H, W)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgevit.mil.table import ints, number, op, place


def _grid(size: int, count: int, mode: str) -> Tensor:
    """Where `count` output positions lie in an input of `size` positions, (count,) float64.

    The modes are MIL's: STRICT_ALIGN_CORNERS, ALIGN_CORNERS, DEFAULT, OFFSET_CORNERS, UNALIGN_CORNERS.
    """
    steps = torch.arange(count, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            return torch.tensor([(size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0], dtype=torch.float64)
        places = steps * ((size - 1) / (count - 1))
    elif mode == "OFFSET_CORNERS":
        places = (steps + 0.5) * (max(1, size - 1) / count)
    elif mode == "UNALIGN_CORNERS":
        places = (steps + 0.5) * (size / count) - 0.5
    else:
        places = steps * (size / count)
    return places.clamp(0, size - 1)


def _linear_along(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """Interpolate between the two neighbours of each place along one axis."""
    low = places.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = place((places - low).to(x.dtype if x.is_floating_point() else torch.float32), axis, x.ndim)
    return torch.lerp(x.index_select(axis, low).to(share.dtype), x.index_select(axis, high).to(share.dtype), share)


def _resized(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    """Linear resizing of one axis."""
    return _linear_along(x, axis, _grid(x.shape[axis], count, mode))


def _nearest(x: Tensor, axis: int, count: int) -> Tensor:
    size = x.shape[axis]
    return x.index_select(axis, torch.arange(count) * size // count)


def _scaled(size: int, factor: Tensor | float) -> int:
    """floor(size * factor), with the factor's own float32 rounding, as the declared shapes have it."""
    return int(np.floor(np.float32(number(factor)) * np.float32(size)))


@op
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | int = 1, scale_factor_width: Tensor | int = 1
) -> Tensor:
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return _nearest(_nearest(x, -2, height), -1, width)


@op
def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return _nearest(_nearest(x, -2, number(target_size_height)), -1, number(target_size_width))


@op
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | int = 1,
    scale_factor_width: Tensor | int = 1,
    align_corners: Tensor | bool = True,
    half_pixel_centers: Tensor | bool | None = None,
) -> Tensor:
    """half_pixel_centers is the opposite of align_corners unless it is given."""
    half = not number(align_corners) if half_pixel_centers is None else number(half_pixel_centers)
    mode = "STRICT_ALIGN_CORNERS" if number(align_corners) else "UNALIGN_CORNERS" if half else "DEFAULT"
    x = _resized(x, -2, _scaled(x.shape[-2], scale_factor_height), mode)
    return _resized(x, -1, _scaled(x.shape[-1], scale_factor_width), mode)


@op
def resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    x = _resized(x, -2, number(target_size_height), sampling_mode)
    return _resized(x, -1, number(target_size_width), sampling_mode)


@op
def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes take the last sizes of `shape`; 0 keeps the input's.

    Unlike the older operations, nearest rounds the place instead of cutting it (coremltools' tests: 2 -> 3 takes
    0, 1, 1). A place half way is documented nowhere; down, so that doubling repeats each pixel.
    """
    dims = number(resized_dims)
    for axis, count in zip(range(-dims, 0), ints(shape)[-dims:], strict=True):
        count = count or x.shape[axis]
        if interpolation_mode == "LINEAR":
            x = _resized(x, axis, count, sampling_mode)
        else:
            x = x.index_select(axis, torch.ceil(_grid(x.shape[axis], count, sampling_mode) - 0.5).long())
    return x


@op
def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = ints(crop_height), ints(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _reflected(places: Tensor, low: float, high: float) -> Tensor:
    """Fold places back and forth into [low, high]."""
    span = high - low
    if span <= 0:
        return torch.full_like(places, low)
    offset = (places - low).remainder(2 * span)
    return low + torch.minimum(offset, 2 * span - offset)


def _pixels(x: Tensor, rows: Tensor, columns: Tensor, outside: float | None) -> Tensor:
    """x (N, C, H, W) at integer places rows, columns (N, h, w) -> (N, C, h, w); `outside` fills beyond the image."""
    height, width = x.shape[-2:]
    flat = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
    taken = x.flatten(2).gather(2, flat.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    taken = taken.reshape(*x.shape[:2], *rows.shape[1:])
    if outside is None:
        return taken
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    return torch.where(inside[:, None], taken, torch.as_tensor(outside, dtype=x.dtype))


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, mode: str, outside: float | None) -> Tensor:
    """x (N, C, H, W) at real places rows, columns (N, h, w), bilinear or nearest."""
    if mode == "nearest":
        return _pixels(x, torch.round(rows), torch.round(columns), outside)
    top, left = rows.floor(), columns.floor()
    down, across = (rows - top)[:, None].to(x.dtype), (columns - left)[:, None].to(x.dtype)
    upper = torch.lerp(_pixels(x, top, left, outside), _pixels(x, top, left + 1, outside), across)
    lower = torch.lerp(_pixels(x, top + 1, left, outside), _pixels(x, top + 1, left + 1, outside), across)
    return torch.lerp(upper, lower, down)


def _to_pixels(places: Tensor, size: int, coordinates: str, align_corners: bool) -> Tensor:
    """Coordinates of any mode -> pixel positions, 0 being the centre of the first pixel."""
    if coordinates == "unnormalized":
        return places
    share = (places + 1) / 2 if coordinates == "normalized_minus_one_to_one" else places
    return share * (size - 1) if align_corners else share * size - 0.5


def _folded(places: Tensor, size: int, padding: str) -> Tensor:
    """Places beyond the image brought back into it, for the padding modes that repeat pixels."""
    if padding == "border":
        return places.clamp(0, size - 1)
    edges = (0.0, size - 1.0) if padding == "reflection" else (-0.5, size - 0.5)
    return _reflected(places, *edges).clamp(0, size - 1)


@op
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    """x (N, C, H, W) at coordinates (N, h, w, 2) given as (x, y) -> (N, C, h, w)."""
    aligned, outside = bool(number(align_corners)), None
    coordinates = coordinates.double()
    columns = _to_pixels(coordinates[..., 0], x.shape[-1], coordinates_mode, aligned)
    rows = _to_pixels(coordinates[..., 1], x.shape[-2], coordinates_mode, aligned)
    if padding_mode == "constant":
        outside = number(padding_value)
    else:
        columns = _folded(columns, x.shape[-1], padding_mode)
        rows = _folded(rows, x.shape[-2], padding_mode)
    return _sampled(x, rows, columns, sampling_mode, outside)


@op
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: Tensor,
    output_width: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    """Sample x where (x', y') = A (x, y, 1), A being (D, 6) with D the batch size or 1."""
    rows = torch.linspace(-1, 1, number(output_height), dtype=torch.float64)
    columns = torch.linspace(-1, 1, number(output_width), dtype=torch.float64)
    y, x_ = torch.meshgrid(rows, columns, indexing="ij")
    frame = torch.stack([x_, y, torch.ones_like(y)], -1)  # (h, w, 3)
    matrix = transform_matrix.double().reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    places = torch.einsum("hwk,nck->nhwc", frame, matrix)
    return resample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def _box_grid(start: Tensor, end: Tensor, count: int, mode: str) -> Tensor:
    """`count` places between start and end (N,) of each box, (N, count); the modes space them as in _grid."""
    steps = torch.arange(count, dtype=torch.float64)
    span = (end - start)[:, None]  # distance between the first and the last pixel of the box
    first = start[:, None]
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            return first + (span / 2 if mode == "ALIGN_CORNERS" else 0.0)
        return first + steps * span / (count - 1)
    if mode == "OFFSET_CORNERS":
        return first + (steps + 0.5) * span.clamp(min=1) / count
    if mode == "UNALIGN_CORNERS":
        return first + (steps + 0.5) * (span + 1) / count - 0.5
    return first + steps * (span + 1) / count


def _box_corners(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """boxes (N, 4) in any convention -> top, left, bottom, right."""
    first, second, third, fourth = boxes.unbind(1)
    if mode.endswith("WIDTH_FIRST"):
        first, second, third, fourth = second, first, fourth, third
    if mode.startswith("CORNERS"):
        return first, second, third, fourth
    return first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2


@op
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: Tensor | int = 1,
    target_width: Tensor | int = 1,
    normalized_coordinates: Tensor | bool = False,
    spatial_scale: Tensor | float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Tensor | float = 0.0,
) -> Tensor:
    """x (B, C, H, W) cut at N boxes and resized bilinearly.

    From iOS17: boxes (N, 4) and box_indices (N,) -> (N, C, h, w). Before: roi (N, 1, 4, 1, 1) cuts every image,
    -> (N, B, C, h, w); roi (N, 1, 5, 1, 1) starts with the index of its image, -> (N, 1, C, h, w).
    """
    batch = x.shape[0]
    if roi is not None:
        flat = roi.reshape(roi.shape[0], -1)
        images = flat[:, :1].long() if flat.shape[1] == 5 else torch.arange(batch).expand(len(flat), batch)
        corners = flat[:, -4:].repeat_interleave(images.shape[1], 0)
    else:
        if boxes is None:
            raise ValueError("boxes are missing")
        images = (torch.arange(len(boxes)) if box_indices is None else box_indices.long())[:, None]
        corners = boxes
    top, left, bottom, right = _box_corners(corners.double(), box_coordinate_mode)
    height, width = x.shape[-2:]
    scale_y = number(spatial_scale) * (height - 1 if number(normalized_coordinates) else 1)
    scale_x = number(spatial_scale) * (width - 1 if number(normalized_coordinates) else 1)
    rows = _box_grid(top * scale_y, bottom * scale_y, number(target_height), sampling_mode)
    columns = _box_grid(left * scale_x, right * scale_x, number(target_width), sampling_mode)
    shape = (len(rows), rows.shape[1], columns.shape[1])
    rows, columns = rows[:, :, None].expand(shape), columns[:, None].expand(shape)
    cut = _pixels_or_pad(x[images.reshape(-1)], rows, columns, number(pad_value))
    return cut if roi is None else cut.reshape(*images.shape, *cut.shape[1:])


def _pixels_or_pad(x: Tensor, rows: Tensor, columns: Tensor, pad_value: float) -> Tensor:
    """Bilinear samples; a place outside the image as a whole takes pad_value, unlike in resample."""
    height, width = x.shape[-2:]
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    values = _sampled(x, rows.clamp(0, height - 1), columns.clamp(0, width - 1), "bilinear", None)
    return torch.where(inside[:, None], values, torch.as_tensor(pad_value, dtype=x.dtype))
