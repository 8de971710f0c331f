"""Writes the golden vectors that pin pre- and postprocessing in Python, Kotlin and Swift.

    python -m tests.contract.make_preprocess_goldens

makes `preprocess/cases.json` and the raw little-endian .bin files it names, the same bytes on every run. Nothing here
comes from `edgevit.data`: resizing is Pillow, one axis per call (horizontal first in every version), the rest is
spelled out in scalar arithmetic. A {file, shape, dtype} entry is a tensor in C order. Sections of cases.json:

images       source (stored pixels, rows `row_stride` bytes apart) -> orientation -> l0 -> geometry -> l1 -> each of l2
tables       mean and std -> the 3 x 256 float32 that bytes become
quantize     float32 values -> int8
alpha        RGBA -> RGB on white
masks        mask -> nearest-neighbour enlargement
photo_masks  mask over the crop -> mask over the photo, 255 outside the crop
segments     logits (1, C, H, W) -> mask
rankings     logits -> the k best indices, and the probabilities of all classes (to 1e-6)
"""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "preprocess"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
INT8 = {"scale": 0.018658448, "zero_point": -14}  # the ImageNet range on 255 steps, like calibration finds it

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_cases() -> dict[str, Any]:
    """The committed cases.json."""
    return json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))


def read_array(entry: dict[str, Any]) -> np.ndarray:
    """The committed tensor of a {file, shape, dtype} entry."""
    dtype = np.dtype(entry["dtype"]).newbyteorder("<")
    return np.fromfile(FOLDER / entry["file"], dtype).reshape(entry["shape"])


def write_goldens(folder: Path) -> None:
    """Write cases.json and every .bin into an existing folder."""
    cases = {
        "schema_version": 1,
        "images": _image_cases(folder),
        "tables": _table_cases(folder),
        "quantize": _quantize_cases(),
        "alpha": _alpha_cases(folder),
        "masks": _mask_cases(folder),
        "photo_masks": _photo_mask_cases(folder),
        "segments": _segment_cases(folder),
        "rankings": _ranking_cases(),
    }
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


def noise(name: str, *shape: int) -> np.ndarray:
    """uint8 noise that depends on name and shape alone, whatever the library version."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(math.prod(shape)), np.uint8).reshape(shape)


def checker(height: int, width: int, cell: int) -> np.ndarray:
    """uint8 (height, width, 3) of 0 and 255: bicubic overshoots both ends."""
    rows, columns = np.indices((height, width)) // cell
    return np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def _image_cases(folder: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []

    def add(name: str, source: np.ndarray, resize: int, crop: tuple[int, int], filter_name: str, **more: Any) -> None:
        cases.append(_image_case(folder, name, source, resize, crop, filter_name, **more))

    for filter_name in ("bilinear", "bicubic"):
        for kind, height, width, size in (
            ("one_pixel", 1, 1, 8),
            ("one_row", 1, 40, 6),
            ("one_column", 40, 1, 6),
            ("upscale", 13, 17, 32),
            ("downscale", 61, 97, 24),
            ("strong_downscale", 150, 200, 9),
            ("unchanged", 20, 24, 20),
            ("portrait", 120, 46, 20),
            ("landscape", 24, 130, 20),
        ):
            name = f"{kind}_{filter_name}"
            add(name, noise(name, height, width, 3), size, (size, size), filter_name)
        add(f"checker_down_{filter_name}", checker(48, 64, 3), 31, (31, 31), filter_name)
        add(f"checker_up_{filter_name}", checker(9, 11, 1), 32, (32, 32), filter_name)
        name = f"odd_crop_{filter_name}"
        add(name, noise(name, 51, 33, 3), 31, (27, 29), filter_name)

    for margin in (1, 3, 5, 7):  # halves to even: offsets 0, 2, 2, 4
        name = f"margin_{margin}"
        add(name, noise(name, 17, 17, 3), 17, (17 - margin, 17 - margin), "bilinear")
    add("margin_rectangle", noise("margin_rectangle", 17, 17, 3), 17, (12, 10), "bilinear")
    for orientation in range(1, 9):
        add(f"orientation_{orientation}", noise("orientation", 7, 5, 3), 6, (6, 6), "bilinear", orientation=orientation)
    add("padded_rows", noise("padded_rows", 19, 23, 3), 16, (16, 16), "bilinear", padding=5)
    add("padded_rows_turned", noise("padded_rows", 19, 23, 3), 16, (16, 16), "bicubic", padding=1, orientation=6)

    for filter_name in ("bilinear", "bicubic"):
        name = f"variants_{filter_name}"
        add(name, noise(name, 37, 53, 3), 24, (24, 20), filter_name, variants=True)
    add("halves", noise("halves", 20, 24, 3), 16, (16, 16), "bilinear", normalize=HALVES)
    add("identity", noise("identity", 20, 24, 3), 16, (16, 16), "bilinear", normalize=IDENTITY)
    return cases


def _image_case(
    folder: Path,
    name: str,
    source: np.ndarray,
    resize: int,
    crop: tuple[int, int],
    filter_name: str,
    *,
    orientation: int = 1,
    padding: int = 0,
    normalize: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
    variants: bool = False,
) -> dict[str, Any]:
    """One image through all levels; `variants` adds NHWC and int8 tensors to the float32 NCHW one."""
    l0 = source if orientation == 1 else np.asarray(Image.fromarray(source).transpose(_UPRIGHT[orientation]))
    l0_entry = _write(folder, f"{name}.l0.bin", l0)
    if orientation == 1 and not padding:
        source_entry = l0_entry
    else:
        source_entry = _write_padded(folder, f"{name}.source.bin", source, padding)
    geometry = _geometry(*l0.shape[:2], resize, crop)
    l1 = _resized_and_cropped(l0, geometry, _RESAMPLING[filter_name])
    mean, std = normalize
    return {
        "name": name,
        "level": "L2",
        "source": {**source_entry, "row_stride": source.shape[1] * 3 + padding},
        "orientation": orientation,
        "l0": l0_entry,
        "preprocess": {"resize": resize, "crop": crop, "mean": mean, "std": std, "interpolation": filter_name},
        "geometry": geometry,
        "l1": _write(folder, f"{name}.l1.bin", l1),
        "l2": _tensors(folder, name, l1, _table(mean, std), variants),
    }


def _tensors(folder: Path, name: str, l1: np.ndarray, table: np.ndarray, variants: bool) -> list[dict[str, Any]]:
    int8_table = _quantized(table, **INT8)
    tensors = [("NCHW", table, {})]
    if variants:
        tensors += [("NHWC", table, {}), ("NCHW", int8_table, INT8), ("NHWC", int8_table, INT8)]
    entries = []
    for layout, values, quantization in tensors:
        image = np.stack([values[channel][l1[..., channel]] for channel in range(3)], axis=0 if layout == "NCHW" else 2)
        entry = _write(folder, f"{name}.l2.{layout.lower()}.{values.dtype}.bin", image[None])
        entries.append({**entry, "layout": layout, **quantization})
    return entries


def _geometry(height: int, width: int, short_side: int, crop: tuple[int, int]) -> dict[str, int]:
    short = min(height, width)
    resized_height, resized_width = (short_side * side // short for side in (height, width))
    return {
        "resized_height": resized_height,
        "resized_width": resized_width,
        "top": round(Fraction(resized_height - crop[0], 2)),
        "left": round(Fraction(resized_width - crop[1], 2)),
        "height": crop[0],
        "width": crop[1],
    }


def _resized_and_cropped(l0: np.ndarray, geometry: dict[str, int], resampling: Image.Resampling) -> np.ndarray:
    wide = Image.fromarray(l0).resize((geometry["resized_width"], l0.shape[0]), resampling)
    resized = wide.resize((geometry["resized_width"], geometry["resized_height"]), resampling)
    left, top = geometry["left"], geometry["top"]
    return np.asarray(resized.crop((left, top, left + geometry["width"], top + geometry["height"])))


def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    f32 = np.float32
    rows = [[(f32(v) / f32(255) - f32(m)) / f32(s) for v in range(256)] for m, s in zip(mean, std, strict=True)]
    return np.array(rows, np.float32)


def _quantized(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """int8: divided in float32, Python's round takes halves to even, then the zero point, then the clamp."""
    steps = [round(float(value / np.float32(scale))) + zero_point for value in values.ravel()]
    return np.array([min(max(step, -128), 127) for step in steps], np.int8).reshape(values.shape)


def _table_cases(folder: Path) -> list[dict[str, Any]]:
    named = {"imagenet": IMAGENET, "halves": HALVES, "identity": IDENTITY}
    cases = []
    for name, (mean, std) in named.items():
        entry = _write(folder, f"table_{name}.bin", _table(mean, std))
        cases.append({"name": name, "level": "L2", "mean": mean, "std": std, **entry})
    return cases


def _quantize_cases() -> list[dict[str, Any]]:
    values = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, -0.25, -0.75, -1.25, 63.0, 64.0, -64.0, -65.0, 1e30, -1e30]
    values += [0.05, 0.45]  # over 0.1: ties in float32, not in double
    cases = []
    for name, scale, zero_point in (("ties", 0.5, 0), ("ties_odd_zero_point", 0.5, 3), ("inexact_scale", 0.1, -128)):
        expected = _quantized(np.array(values, np.float32), scale, zero_point).tolist()
        case = {"name": name, "level": "L2", "scale": scale, "zero_point": zero_point, "values": values}
        cases.append({**case, "expected": expected})
    return cases


def _alpha_cases(folder: Path) -> list[dict[str, Any]]:
    """All 256 alphas (columns) over colours from black to white (rows)."""
    colours, alphas = np.meshgrid([0, 1, 2, 63, 127, 128, 200, 254, 255], range(256), indexing="ij")
    rgba = np.stack([colours, 255 - colours, colours // 2, alphas], axis=2).astype(np.uint8)
    blended = [(c * a + 255 * (255 - a) + 127) // 255 for *rgb, a in rgba.reshape(-1, 4).tolist() for c in rgb]
    rgb = np.array(blended, np.uint8).reshape(*rgba.shape[:2], 3)
    entries = {"rgba": _write(folder, "alpha.rgba.bin", rgba), "rgb": _write(folder, "alpha.rgb.bin", rgb)}
    return [{"name": "all_alphas", "level": "L0", **entries}]


def _mask_cases(folder: Path) -> list[dict[str, Any]]:
    sizes = {"up": ((5, 7), (16, 23)), "same": ((6, 6), (6, 6)), "down": ((13, 9), (5, 4)), "mixed": ((8, 3), (3, 8))}
    cases = []
    for kind, ((height, width), (new_height, new_width)) in sizes.items():
        mask = noise(f"mask_{kind}", height, width)
        columns = [x * width // new_width for x in range(new_width)]
        rows = [[mask[y * height // new_height, column] for column in columns] for y in range(new_height)]
        entries = {
            "mask": _write(folder, f"mask_{kind}.bin", mask),
            "enlarged": _write(folder, f"mask_{kind}.enlarged.bin", np.array(rows, np.uint8)),
        }
        cases.append({"name": kind, "level": "L4", **entries})
    return cases


def _photo_mask_cases(folder: Path) -> list[dict[str, Any]]:
    """Masks at crop size and at half of it, back on photos larger and smaller than the crop."""
    cases = []
    for kind, photo_hw, short_side, crop, mask_hw in (
        ("landscape", (30, 47), 16, (16, 16), (16, 16)),
        ("portrait_odd_margin", (41, 29), 19, (14, 16), (14, 16)),
        ("coarse_mask", (33, 40), 16, (16, 16), (8, 8)),
        ("small_photo", (5, 7), 16, (16, 16), (16, 16)),
    ):
        geometry = _geometry(*photo_hw, short_side, crop)
        mask = noise(f"photo_mask_{kind}", *mask_hw) % 21
        entries = {
            "mask": _write(folder, f"photo_mask_{kind}.bin", mask),
            "photo_mask": _write(folder, f"photo_mask_{kind}.photo.bin", _on_photo(mask, geometry, photo_hw)),
        }
        cases.append({"name": kind, "level": "L4", "geometry": geometry, **entries})
    return cases


def _on_photo(mask: np.ndarray, geometry: dict[str, int], photo_hw: tuple[int, int]) -> np.ndarray:
    photo = np.full(photo_hw, 255, np.uint8)
    for y, x in np.ndindex(photo_hw):
        row = y * geometry["resized_height"] // photo_hw[0] - geometry["top"]
        column = x * geometry["resized_width"] // photo_hw[1] - geometry["left"]
        if 0 <= row < geometry["height"] and 0 <= column < geometry["width"]:
            source = row * mask.shape[0] // geometry["height"], column * mask.shape[1] // geometry["width"]
            photo[y, x] = mask[source]
    return photo


def _segment_cases(folder: Path) -> list[dict[str, Any]]:
    """Few distinct logits, so that most pixels are ties; one class around zero, with both zeros."""
    many = (noise("segment_many", 1, 5, 9, 11) % 3).astype(np.float32) - 1
    scores = [[max(range(5), key=lambda c: (many[0, c, y, x], -c)) for x in range(11)] for y in range(9)]
    one = np.array([[-1.0, -0.0, 0.0, 1.4e-45, 2.0, -1.4e-45]], np.float32)[None, None]
    foreground = [[0, 0, 0, 1, 1, 0]]
    cases = []
    for name, logits, mask in (("ties", many, scores), ("one_class", one, foreground)):
        entries = {
            "logits": _write(folder, f"segment_{name}.logits.bin", logits),
            "mask": _write(folder, f"segment_{name}.mask.bin", np.array(mask, np.uint8)),
        }
        cases.append({"name": name, "level": "L4", **entries})
    return cases


def _ranking_cases() -> list[dict[str, Any]]:
    named = {
        "distinct": ([0.5, -1.25, 3.0, 2.0], 3),
        "ties_to_lower_index": ([1.0, 2.0, 2.0, 0.0, 2.0, 1.0], 5),
        "signed_zeros_tie": ([-0.0, 0.0, -0.0], 3),
        "all_equal": ([7.0] * 6, 2),
        "many_ties": ([float(index % 3) for index in range(60)], 45),  # long enough to expose an unstable sort
        "large": ([1000.0, 999.0, -1000.0], 2),
        "equal_after_softmax": ([100.0, -100.0, -99.5], 3),
        "k_beyond_classes": ([0.25, 0.75], 5),
        "one_class": ([-3.0], 1),
    }
    cases = []
    for name, (logits, k) in named.items():
        exponentials = [math.exp(logit - max(logits)) for logit in logits]
        indices = sorted(range(len(logits)), key=lambda i, scores=logits: (-scores[i], i))[:k]
        # 9 digits: finer than the tolerance, coarser than what math libraries disagree on.
        probabilities = [round(value / math.fsum(exponentials), 9) for value in exponentials]
        case = {"name": name, "level": "L4", "logits": logits, "k": k}
        cases.append({**case, "indices": indices, "probabilities": probabilities})
    return cases


def _write(folder: Path, file: str, array: np.ndarray) -> dict[str, Any]:
    dtype = array.dtype.name
    (folder / file).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return {"file": file, "shape": list(array.shape), "dtype": dtype}


def _write_padded(folder: Path, file: str, pixels: np.ndarray, padding: int) -> dict[str, Any]:
    """Rows with `padding` bytes of 0xAB after each, which must not reach the result; `shape` is that of the pixels."""
    rows = [row.tobytes() + b"\xab" * padding for row in pixels]
    (folder / file).write_bytes(b"".join(rows))
    return {"file": file, "shape": list(pixels.shape), "dtype": "uint8"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_goldens(FOLDER)
