"""`qparams`: the int8 grids of an artifact's file, and whether they are those of a checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.errors import ParityError, UsageError
from edgevit.quantization.model_qparams import ModelQParams, QParamsComparison, compare_qparams
from edgevit.quantization.qparams import QParams
from edgevit.quantization.weight_storage import INT8
from edgevit.targets.registry import get_converter


@dataclass(frozen=True, slots=True)
class QParamsReport:
    """What an artifact's file holds; comparison: with the checkpoint, where one was given."""

    artifact: str
    artifact_sha256: str
    qparams: ModelQParams
    comparison: QParamsComparison | None

    def summary(self) -> str:
        """One line for people."""
        return self.comparison.summary() if self.comparison else self.qparams.summary()

    def to_json(self) -> dict[str, Any]:
        """The document as printed, schema edgevit.qparams; every scale as its shortest exact decimal."""
        names = self.comparison.names if self.comparison else {}
        return {
            "schema": "edgevit.qparams",
            "schema_version": 1,
            "artifact": self.artifact,
            "artifact_sha256": self.artifact_sha256,
            "layers": [
                {
                    "layer": names.get(layer.name, layer.name),
                    "shape": list(layer.weight.int_repr.shape),
                    "scales": layer.weight.scales.tolist(),
                    "input": _qparams(layer.input),
                    "result": _qparams(layer.result),
                }
                for layer in self.qparams.layers
            ],
            "activations": {name: _qparams(qparams) for name, qparams in self.qparams.activations.items()},
            "float_layers": list(self.qparams.float_layers),
            "averages": self.qparams.averages,
            "floating": dict(self.qparams.floating),
            "equal": self.comparison.equal if self.comparison else None,
            "differences": list(self.comparison.differences) if self.comparison else [],
            "summary": self.summary(),
        }


def qparams(
    artifact: Artifact | str | Path, *, weights: str | Path | None = None, model: str | None = None
) -> QParamsReport:
    """`inspect_qparams`, then hold the file to the checkpoint: raises ParityError naming what differs."""
    report = inspect_qparams(artifact, weights=weights, model=model)
    require_equal(report)
    return report


def inspect_qparams(
    artifact: Artifact | str | Path, *, weights: str | Path | None = None, model: str | None = None
) -> QParamsReport:
    """Read the int8 grids back from an artifact's file, and compare them with those of its checkpoint.

    model: "file.py:factory" for networks that are not ours. Raises UsageError for an artifact without int8 grids and
    for a checkpoint of another model, ContractError for a damaged file.
    """
    opened = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    qparams = get_converter(opened.manifest.target).read_qparams(opened.path, opened.manifest)
    if not qparams:
        raise UsageError(
            f"{opened.name} holds no int8 grids",
            fix="give an artifact of `edgevit convert` with --precision int8 or -O weight_compression=int8",
        )
    comparison = None if weights is None else compare_qparams(qparams, _of_checkpoint(opened, weights, model))
    return QParamsReport(opened.name, opened.manifest_sha256, qparams, comparison)


def require_equal(report: QParamsReport) -> None:
    """Raise ParityError if a comparison was made and anything differs."""
    if report.comparison is not None and not report.comparison.equal:
        raise ParityError(
            f"{report.artifact} does not hold the checkpoint's scales: {report.summary()}",
            fix="give the checkpoint that it was made from, or convert again",
        )


def _of_checkpoint(artifact: Artifact, weights: str | Path, model: str | None) -> ModelQParams:
    from edgevit.checkpoints.checkpoint import read_checkpoint
    from edgevit.quantization.expected_qparams import network_qparams, program_qparams
    from edgevit.quantization.loading import quantized_network
    from edgevit.verification.reference_model import load_float, program_of

    if artifact.manifest.compression == INT8:
        return program_qparams(program_of(artifact, load_float(artifact, weights, model)).exported)
    checkpoint = read_checkpoint(weights)
    if checkpoint.int8 is None:
        raise UsageError(
            f"{weights} holds no int8 scales", fix="give the int8 checkpoint, of `edgevit quantize` or `qat`"
        )
    return network_qparams(quantized_network(checkpoint))


def _qparams(qparams: QParams | None) -> dict[str, float | int] | None:
    return None if qparams is None else dataclasses.asdict(qparams)
