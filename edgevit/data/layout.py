"""Moves image tensors between channels-first and channels-last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.spec import Layout

if TYPE_CHECKING:
    import numpy as np

_AXES = {(Layout.NCHW, Layout.NHWC): (0, 2, 3, 1), (Layout.NHWC, Layout.NCHW): (0, 3, 1, 2)}


def to_layout(array: np.ndarray, source: Layout, target: Layout) -> np.ndarray:
    """`array` of rank 4 in another layout, contiguous; equal layouts give the array itself."""
    if source is target:
        return array
    return array.transpose(_AXES[source, target]).copy(order="C")
