"""L0 pixels to the model's input tensor, bit-exact: resize, centre crop, normalise, lay out.

The apps hold the same arithmetic in Kotlin and Swift; `tests/contract/preprocess` pins all of them. Levels:
L0 decoded pixels uint8 (H, W, 3); L1 the same after resize and crop; L2 the tensor.
Evaluation, calibration and deployment all come through here; training adds its random augmentations itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.errors import QuantizationError, UsageError
from edgevit.spec import Interpolation, Layout, Preprocess

_FIXED_BITS = 22  # of fixed-point filter weights: 255 * 2**22 plus bicubic overshoot still fits int32
_ROWS_PER_BLOCK = 64  # of the horizontal pass: keeps its transposed block and accumulators in the cache
_BICUBIC_A = -0.5


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes in pixels: the resized image, and the window cropped out of it. Golden vectors store these."""

    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class AxisTaps:
    """Which source lines make each output line of one axis, and how much of each.

    index and weights are int (outputs, taps); weights are int32 with 22 fraction bits, 0 where a row has fewer taps.
    """

    index: np.ndarray
    weights: np.ndarray


def preprocess(pixels: np.ndarray, spec: Preprocess, layout: Layout = Layout.NCHW) -> np.ndarray:
    """L0 uint8 (H, W, 3) -> L2 float32 (1, 3, crop H, crop W), or (1, crop H, crop W, 3) for NHWC."""
    height, width = pixels.shape[:2]
    cropped = apply_geometry(pixels, geometry(height, width, spec), spec.interpolation)
    return to_tensor(cropped, normalize_table(spec.mean, spec.std), layout)


def preprocess_mask(mask: np.ndarray, spec: Preprocess) -> np.ndarray:
    """What the network sees of a mask (H, W): classes (crop H, crop W) in the window that `preprocess` makes a tensor.

    Nearest neighbour from the centre of each pixel, as the filters count: output i of m shows floor((i + 0.5) n / m).
    """
    height, width = mask.shape
    window = geometry(height, width, spec)
    rows = _nearest(height, window.resized_height, window.top, window.height)
    columns = _nearest(width, window.resized_width, window.left, window.width)
    return mask[rows[:, None], columns]


def _nearest(n: int, m: int, start: int, length: int) -> np.ndarray:
    """Source lines of outputs start, start + 1, ... of n lines resized to m, in integers."""
    return (2 * np.arange(start, start + length) + 1) * n // (2 * m)


def geometry(height: int, width: int, spec: Preprocess) -> Geometry:
    """Where an image of height x width ends up: short side resized, crop centred."""
    resized_height, resized_width = resized_size(height, width, spec.resize)
    crop_height, crop_width = spec.crop
    return Geometry(
        resized_height=resized_height,
        resized_width=resized_width,
        top=center_crop_offset(resized_height - crop_height),
        left=center_crop_offset(resized_width - crop_width),
        height=crop_height,
        width=crop_width,
    )


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the short side at short_side and the long side rounded down."""
    if min(height, width, short_side) < 1:
        raise UsageError(f"cannot resize {height}x{width} to {short_side}", fix="sizes start at 1 pixel")
    if height <= width:
        return short_side, short_side * width // height
    return short_side * height // width, short_side


def center_crop_offset(margin: int) -> int:
    """Pixels before a centred crop that leaves `margin` over: margin / 2, halves to the even neighbour."""
    return round(margin / 2)


def apply_geometry(pixels: np.ndarray, geometry: Geometry, interpolation: Interpolation) -> np.ndarray:
    """L0 uint8 (H, W, 3) -> L1 uint8 (height, width, 3).

    Same bytes as `resize` and then `crop`, but only the window is computed: memory stays bounded for any aspect ratio.
    """
    height, width = pixels.shape[:2]
    bottom, right = geometry.top + geometry.height, geometry.left + geometry.width
    rows = axis_taps(height, geometry.resized_height, interpolation, window=(geometry.top, bottom))
    columns = axis_taps(width, geometry.resized_width, interpolation, window=(geometry.left, right))
    first, last = int(rows.index.min()), int(rows.index.max())
    # Horizontal before vertical, with bytes between: the other order differs by up to 28 levels.
    band = _filter_columns(pixels[first : last + 1], columns)
    return _filter_rows(band, AxisTaps(rows.index - first, rows.weights))


def resize(pixels: np.ndarray, size_hw: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Antialiased resize of uint8 (H, W, C) to size_hw, horizontal then vertical: uint8 (*size_hw, C)."""
    height, width = size_hw
    return apply_geometry(pixels, Geometry(height, width, 0, 0, height, width), interpolation)


def crop(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The window of an already resized image (resized H, resized W, C), as a view (height, width, C)."""
    bottom, right = geometry.top + geometry.height, geometry.left + geometry.width
    return pixels[geometry.top : bottom, geometry.left : right]


def axis_taps(n: int, m: int, interpolation: Interpolation, *, window: tuple[int, int] | None = None) -> AxisTaps:
    """Filter weights that resize one axis from n to m lines, for the outputs [start, stop) of `window` or all.

    Every operation is IEEE double in the contract's order, none fused; Kotlin and Swift get the same integers.
    """
    start, stop = window or (0, m)
    if min(n, m) < 1 or not 0 <= start < stop <= m:
        raise UsageError(f"cannot resize {n} lines to {start}:{stop} of {m}", fix="sizes start at 1 pixel")
    outputs = np.arange(start, stop)
    if n == m:  # the pass is skipped: each line is its own only source
        return AxisTaps(outputs[:, None], np.full((len(outputs), 1), 1 << _FIXED_BITS, np.int32))

    radius, weight_at = _FILTERS[interpolation]
    scale = n / m
    filter_scale = max(scale, 1.0)  # antialias: the filter widens as the image shrinks
    support = radius * filter_scale
    inverse = 1 / filter_scale

    centre = (outputs + 0.5) * scale
    low = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    high = np.minimum(np.trunc(centre + support + 0.5), n).astype(np.int64)
    source = low[:, None] + np.arange((high - low).max())  # (outputs, taps)
    inside = source < high[:, None]
    weights = np.where(inside, weight_at(np.abs(((source - centre[:, None]) + 0.5) * inverse)), 0.0)
    # cumsum adds left to right, as the contract asks; sum adds in pairs and rounds differently.
    fixed = weights / np.cumsum(weights, axis=1)[:, -1:] * (1 << _FIXED_BITS)
    fixed = np.trunc(np.where(fixed < 0, fixed - 0.5, fixed + 0.5)).astype(np.int32)
    return AxisTaps(np.minimum(source, n - 1), np.where(inside, fixed, 0).astype(np.int32))


def normalize_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """float32 (channels, 256): what each byte of each channel becomes, (v / 255 - mean) / std in float32 in that order.

    A table because v * (1 / 255), or one multiply-add, changes the last bit of 100 to 200 entries.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    return (values[None] - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]


def to_tensor(pixels: np.ndarray, table: np.ndarray, layout: Layout) -> np.ndarray:
    """L1 uint8 (H, W, 3) through a table (3, 256): (1, 3, H, W) or (1, H, W, 3) in the table's dtype."""
    planes = np.stack([table[channel][pixels[..., channel]] for channel in range(3)])  # (3, H, W)
    if layout is Layout.NCHW:
        return planes[None]
    if layout is Layout.NHWC:
        return np.ascontiguousarray(planes.transpose(1, 2, 0))[None]
    raise UsageError(f"an image has no {layout} layout", fix="use NCHW or NHWC")


def to_pixels(tensor: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The image that `to_tensor` made (1, 3, H, W) of: uint8 (H, W, 3). UsageError for a value that is no byte's."""
    pixels = np.empty((*tensor.shape[2:], 3), np.uint8)
    for channel in range(3):
        entries, plane = table[channel], tensor[0, channel]
        borders = (entries[1:] + entries[:-1]) / 2
        pixels[..., channel] = np.searchsorted(borders, plane)
        if not np.abs(entries[pixels[..., channel]] - plane).max() <= 1e-5:
            raise UsageError("the artifact takes images, and this tensor is none", fix="give an image")
    return pixels


def quantize_tensor(value: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """float32 -> int8 of the same shape: value / scale in float32, halves to even, plus zero_point, clamped."""
    if not scale > 0:
        raise QuantizationError(f"scale {scale} is not positive", fix="calibrate on more samples")
    steps = np.rint(value.astype(np.float32) / np.float32(scale))
    return np.clip(steps + zero_point, -128, 127).astype(np.int8)


def _bilinear(t: np.ndarray) -> np.ndarray:
    """Triangle of radius 1 at distances t >= 0."""
    return np.where(t < 1, 1 - t, 0.0)


def _bicubic(t: np.ndarray) -> np.ndarray:
    """Keys' cubic of radius 2, a = -0.5, at distances t >= 0."""
    a = _BICUBIC_A
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


_FILTERS: dict[Interpolation, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    Interpolation.BILINEAR: (1.0, _bilinear),
    Interpolation.BICUBIC: (2.0, _bicubic),
}


def _filter_rows(pixels: np.ndarray, taps: AxisTaps) -> np.ndarray:
    """Weighted sums along axis 0: uint8 (n, W, C) -> uint8 (outputs, W, C)."""
    lines = pixels.reshape(len(pixels), -1)  # (n, W*C)
    total = np.full((len(taps.index), lines.shape[1]), 1 << (_FIXED_BITS - 1), np.int32)  # half: rounds the shift
    for index, weights in zip(taps.index.T, taps.weights.T, strict=True):
        total += lines[index] * weights[:, None]
    return np.clip(total >> _FIXED_BITS, 0, 255).astype(np.uint8).reshape(-1, *pixels.shape[1:])


def _filter_columns(pixels: np.ndarray, taps: AxisTaps) -> np.ndarray:
    """Weighted sums along axis 1: uint8 (H, n, C) -> uint8 (H, outputs, C)."""
    height, _, channels = pixels.shape
    result = np.empty((height, len(taps.index), channels), np.uint8)
    for top in range(0, height, _ROWS_PER_BLOCK):
        block = np.ascontiguousarray(pixels[top : top + _ROWS_PER_BLOCK].swapaxes(0, 1))  # (n, rows, C)
        result[top : top + _ROWS_PER_BLOCK] = _filter_rows(block, taps).swapaxes(0, 1)
    return result
