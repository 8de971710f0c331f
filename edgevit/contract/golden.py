"""Golden vectors: one image walked through every level of the preprocessing contract, as raw .bin files.

L0 decoded pixels, L1 resized and cropped, L2 the input tensor, L3 the checkpoint's output, L4 what a user sees.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.contract.manifest import Golden
from edgevit.data.layout import to_layout
from edgevit.data.postprocess import segment_mask, softmax, top_k
from edgevit.data.preprocess import apply_geometry, geometry
from edgevit.spec import Layout, Preprocess, Task, TensorSpec

FOLDER = "golden"
_TOP = 5


@dataclass(frozen=True, slots=True)
class Reference:
    """An image and the checkpoint's output for it: pixels uint8 (H, W, 3), tensor and logits in NCHW form."""

    name: str
    pixels: np.ndarray
    tensor: np.ndarray
    logits: np.ndarray


def write_goldens(
    folder: Path,
    references: list[Reference],
    *,
    preprocess: Preprocess,
    task: Task,
    source: TensorSpec,
    result: TensorSpec,
) -> tuple[Golden, ...]:
    """Write all levels of every reference below folder/golden, in the layouts of the artifact's input and output."""
    (folder / FOLDER).mkdir()
    goldens = []
    for reference in references:
        height, width = reference.pixels.shape[:2]
        frame = geometry(height, width, preprocess)
        cropped = apply_geometry(reference.pixels, frame, preprocess.interpolation)
        arrays = {
            "L0": reference.pixels,
            "L1": cropped,
            "L2": cropped[None] if source.color else to_layout(reference.tensor, Layout.NCHW, source.layout),
            "L3": to_layout(reference.logits, Layout.NCHW, result.layout)
            if result.layout != Layout.FLAT
            else reference.logits,
            **output(reference.logits, task),
        }
        levels = {level: _write(folder, f"{reference.name}.{level}.bin", array) for level, array in arrays.items()}
        goldens.append(Golden(reference.name, dataclasses.asdict(frame), levels))
    return tuple(goldens)


def output(logits: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Level 4 from NCHW logits: the mask, or the best classes with their probabilities, ties to the lower index."""
    if task is Task.SEGMENT:
        return {"L4_mask": segment_mask(logits)}
    probabilities = softmax(logits[0])
    best = top_k(logits[0], min(_TOP, logits.shape[1]))
    return {"L4_indices": best.astype(np.int32), "L4_probabilities": probabilities[best].astype(np.float32)}


def _write(folder: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    path = Path(FOLDER) / name
    (folder / path).write_bytes(little.tobytes())
    return {"file": path.as_posix(), "shape": list(array.shape), "dtype": array.dtype.name}
