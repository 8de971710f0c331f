"""`qparams`: the quantization parameters of an artifact's file, and whether they are those of a checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import Artifact, opened
from edgevit.contract.schema import VERSION
from edgevit.errors import ParityError, UsageError
from edgevit.quantization.model_qparams import ModelQParams, QParamsComparison, compare_qparams
from edgevit.quantization.qparams import QParams
from edgevit.quantization.weight_storage import INT8
from edgevit.targets.registry import get_converter


@dataclass(frozen=True, slots=True)
class QParamsReport:
    """The quantization parameters of an artifact's file; comparison: with the checkpoint, where one was given."""

    artifact: str
    artifact_sha256: str
    qparams: ModelQParams
    comparison: QParamsComparison | None

    def summary(self) -> str:
        """One line for people."""
        return self.comparison.summary() if self.comparison else self.qparams.summary()

    @property
    def failure(self) -> ParityError | None:
        """The error if a comparison was made and anything differs, else None."""
        if self.comparison is None or self.comparison.equal:
            return None
        return ParityError(
            f"{self.artifact} does not hold the checkpoint's scales: {self.summary()}",
            fix="give the checkpoint that it was made from, or convert again",
        )

    def require(self) -> None:
        """Raise `failure`, if there is one."""
        if self.failure is not None:
            raise self.failure

    def to_json(self) -> dict[str, Any]:
        """The document as printed, schema edgevit.qparams; every scale as its shortest exact decimal."""
        names = self.comparison.names if self.comparison else {}
        return {
            "schema": "edgevit.qparams",
            "schema_version": VERSION,
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
            "kept_in_float": dict(self.qparams.kept_in_float),
            "equal": self.comparison.equal if self.comparison else None,
            "differences": list(self.comparison.differences) if self.comparison else [],
            "summary": self.summary(),
        }


def qparams(
    artifact: Artifact | str | Path,
    *,
    weights: str | Path | None = None,
    model: str | None = None,
    strict: bool = True,
) -> QParamsReport:
    """Read the quantization parameters back from an artifact's file, and compare them with those of its checkpoint.

    artifact: an Artifact or its folder. weights: the checkpoint to compare with number by number. model:
    "file.py:factory" of a network that is not ours. strict: raise ParityError if anything differs; without it the
    caller asks `QParamsReport.require`.
    Raises UsageError for an artifact without int8 and for a checkpoint of another model, ContractError for a damaged
    file.
    """
    one = opened(artifact)
    found = get_converter(one.manifest.target).read_qparams(one.path, one.manifest)
    if not found:
        raise UsageError(
            f"{one.name} holds no quantization parameters",
            fix="give an artifact of `edgevit convert` with --precision int8 or -O weight_compression=int8",
        )
    comparison = None if weights is None else compare_qparams(found, _of_checkpoint(one, weights, model))
    report = QParamsReport(one.name, one.manifest_sha256, found, comparison)
    if strict:
        report.require()
    return report


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
