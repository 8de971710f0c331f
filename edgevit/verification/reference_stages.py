"""The stages of the error breakdown, from a checkpoint's network to an artifact, each as a function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.artifacts.artifact import Artifact
from edgevit.export.program import runner
from edgevit.quantization import weight_storage
from edgevit.spec import Precision
from edgevit.verification.error_breakdown import EXPORTED, FLOAT, INT8, ROUNDED
from edgevit.verification.reference_model import load_source, open_float_form, program_of, remembering

if TYPE_CHECKING:
    from edgevit.verification.reference_model import Reference, Source


def open_stages(artifact: Artifact, weights: str | Path, model: str | None = None) -> dict[str, Reference]:
    """By name, in order: the float network, the graph exported for its target, of an int8 artifact the int8 network.

    The graph of an int8 artifact is the fake-quantized one, in float arithmetic; the int8 network computes in integers.
    The graph of an artifact with int8 weights has these weights, and is named so.
    Raises UsageError for weights that the artifact was not made from.
    """
    return stages_of(artifact, load_source([artifact], weights, model), weights, model)


def stages_of(
    artifact: Artifact, source: Source, weights: str | Path, model: str | None = None
) -> dict[str, Reference]:
    """`open_stages` where the checkpoint's network is open already."""
    reference = remembering(source.run)
    exported = remembering(runner(program_of(artifact, source)))
    if artifact.manifest.precision is not Precision.INT8:
        name = ROUNDED if artifact.manifest.compression == weight_storage.INT8 else EXPORTED
        return {FLOAT: reference, name: exported}
    float_form = open_float_form(artifact, weights, model)
    return {FLOAT: float_form, EXPORTED: exported, INT8: reference}
