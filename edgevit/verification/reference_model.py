"""The checkpoint that an artifact was made from, opened as the network that the artifact shall equal."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.model_source import LoadedModel, load_model
from edgevit.deploy.pass_manager import PASSES, deploy
from edgevit.errors import UsageError
from edgevit.export.export_program import export
from edgevit.graph.capture import capture, example_input, functional
from edgevit.models import is_listed
from edgevit.quantization.loading import QuantizedModel, load_quantized_model
from edgevit.quantization.quantized_model import prepare
from edgevit.quantization.weight_only import rounded_program
from edgevit.quantization.weight_storage import INT8
from edgevit.spec import Precision
from edgevit.targets.registry import get_converter

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import fx

    from edgevit.artifacts.artifact import Artifact
    from edgevit.export.program import Program

    Reference = Callable[[np.ndarray], np.ndarray]
    Source = LoadedModel | QuantizedModel


def load_float(artifact: Artifact, weights: str | Path, model: str | None) -> LoadedModel:
    """The float network of an artifact's checkpoint, of an int8 one the float network that it was made from."""
    return load_model(**_arguments(artifact, weights, model), float_part=True)


def load_source(artifacts: list[Artifact], weights: str | Path, model: str | None = None) -> Source:
    """The checkpoint's network, after a check that the artifacts were made from it.

    model: "file.py:factory" for networks that are not ours. Raises UsageError for other weights.
    """
    int8 = artifacts[0].manifest.precision is Precision.INT8
    load = load_quantized_model if int8 else load_model
    source = load(**_arguments(artifacts[0], weights, model))
    for artifact in artifacts:
        if artifact.manifest.provenance.weights.state_sha256 != source.weights["state_sha256"]:
            raise UsageError(
                f"{artifact.name} was not made from {weights}",
                fix="give the checkpoint that was converted, or convert again",
            )
    return source


def _arguments(artifact: Artifact, weights: str | Path, model: str | None) -> dict[str, Any]:
    manifest = artifact.manifest
    if model is None and not is_listed(manifest.model.name):
        raise UsageError(
            f"{artifact.name} is of a network of your own, {manifest.model.name!r}",
            fix="say what builds it: --model path/to/file.py:factory, in Python model=",
        )
    return {
        "model": model or manifest.model.name,
        "weights": weights,
        "num_classes": manifest.model.num_classes,
        "input_size": manifest.input_size,
    }


def open_float_form(artifact: Artifact, weights: str | Path, model: str | None = None) -> Reference:
    """The float network of an int8 artifact's checkpoint as a function."""
    return remembering(load_float(artifact, weights, model).run)


def remembering(run: Reference) -> Reference:
    """A reference with cached outputs: several artifacts of one checkpoint are compared on the same images."""
    known: dict[bytes, np.ndarray] = {}

    def once(tensor: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(tensor.tobytes()).digest()
        if key not in known:
            known[key] = run(tensor)
        return known[key]

    return once


def program_of(artifact: Artifact, source: Source) -> Program:
    """The program that an artifact was converted from, made again; source: its checkpoint, of `load_source`."""
    manifest = artifact.manifest
    module, spec = source.module, source.spec
    if isinstance(source, LoadedModel):
        kernels = get_converter(manifest.target).kernels
        module, applied = deploy(captured_form(source), spec, PASSES, kernels)
        if applied and not manifest.deploy:  # it was converted with --no-deploy
            module, _ = deploy(captured_form(source), spec, (), kernels)
    program = export(
        module, spec, precision=manifest.precision, labels=manifest.labels, dynamic_batch=manifest.dynamic_batch
    )
    return rounded_program(program) if manifest.compression == INT8 else program


def float_program_of(artifact: Artifact, source: LoadedModel) -> Program:
    """The float network of an int8 artifact's checkpoint, with its program's operations; source: of `load_float`."""
    deployed, _ = prepare(source.module, source.spec)
    return export(deployed, source.spec, labels=artifact.manifest.labels, dynamic_batch=artifact.manifest.dynamic_batch)


def captured_form(source: LoadedModel) -> fx.GraphModule:
    """The network of a checkpoint as a functional graph, before any deploy pass."""
    inputs = tuple(example_input(tensor.shape) for tensor in source.spec.inputs)
    return functional(capture(source.module, inputs, source.spec.name))
