"""Runs what a converter has just written, without an artifact around it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np

from edgevit.data.layout import to_layout
from edgevit.spec import Layout


def run_once(converter, converted, folder, image) -> np.ndarray:
    """image (1, 3, H, W) through the runtime; logits in NCHW form."""
    facts = {field.name: getattr(converted, field.name) for field in dataclasses.fields(converted)}
    session = converter.open(folder, SimpleNamespace(**facts, dynamic_batch=False))
    source, result = converted.inputs[0], converted.outputs[0]
    output = session.run({source.name: to_layout(image, Layout.NCHW, source.layout)})[result.name]
    session.close()
    return output if result.layout is Layout.FLAT else to_layout(output, result.layout, Layout.NCHW)
