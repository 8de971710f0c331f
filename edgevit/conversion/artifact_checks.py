"""What an artifact must pass before it is kept: qparams, fp32 reference build, outputs here and as phones run it."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.artifacts.artifact import Artifact
from edgevit.contract.manifest import Manifest, NotExecuted, Parity, SettingsRun, Tolerance
from edgevit.contract.tolerances import float32_bound, why
from edgevit.conversion.worker_messages import CheckpointOutputs
from edgevit.errors import ConversionError, ParityError
from edgevit.export.program import Program, load_program
from edgevit.quantization.model_qparams import compare_qparams
from edgevit.spec import Precision
from edgevit.targets.base import NotExecutable
from edgevit.targets.options import without_numeric
from edgevit.verification.checks import batch_sizes, check_parity, describe_parity, measure
from edgevit.verification.phone_settings import Child, audit_of, execution_of

if TYPE_CHECKING:
    from edgevit.conversion.worker_messages import WorkerRequest
    from edgevit.targets.base import Converter


def execute(artifact: Artifact, expected: CheckpointOutputs) -> Parity:
    """Run the goldens and the probes in the target's own runtime and compare with what the checkpoint computes.

    One by one, and also several at once where the artifact takes several.
    """
    manifest = artifact.manifest
    try:
        session = artifact.open()
    except NotExecutable as reason:
        return NotExecuted(manifest.target, reason.message)
    try:
        tensors = np.concatenate([expected.probes, *(golden.tensor for golden in expected.goldens)])
        logits = np.concatenate([expected.probe_logits, *(golden.logits for golden in expected.goldens)])
        sizes = batch_sizes(manifest)
        actual = np.concatenate([artifact.run(tensors, session=session, batch=size) for size in sizes])
        wanted = np.concatenate([logits] * len(sizes))
        return measure(actual, wanted, task=manifest.model.task, runtime=session.runtime)
    finally:
        session.close()


def check_packing(artifact: Artifact) -> str:
    """What the file shows of how phones' builds of the runtime will treat it. Raises ConversionError for any fault."""
    audit = audit_of(artifact)
    if audit is None:
        return ""
    if audit.faults:
        raise ConversionError(
            f"{artifact.name} would be wrong on phones: {'; '.join(audit.faults)}",
            fix="write those modules as plain arithmetic, convolutions and matrix products, and report the model",
        )
    return audit.summary


def execute_as_phones(artifact: Artifact, child: Child) -> tuple[SettingsRun, ...]:
    """Run the file under all settings that phones' builds have, and raise whatever goes wrong."""
    execution = execution_of(artifact, child)
    if execution.failure is not None:
        raise execution.failure
    artifact.manifest.checks["phone settings"] = execution.summary()
    return execution.rows


def check_qparams(program: Program, converter: Converter, manifest: Manifest, folder: Path) -> str:
    """The file must hold the program's weights and quantization parameters, bit-exact; returns what was compared.

    Raises ParityError naming what differs.
    """
    from edgevit.quantization.expected_qparams import program_qparams

    comparison = compare_qparams(converter.read_qparams(folder, manifest), program_qparams(program.exported))
    if not comparison.equal:
        raise ParityError(
            f"{manifest.name} does not hold the scales of its checkpoint: {comparison.summary()}",
            fix="do not ship it; report the model",
        )
    return comparison.summary()


def check_reference_build(
    program: Program, converter: Converter, options: Any, manifest: Manifest, request: WorkerRequest
) -> str:
    """The same program in fp32, no numeric option chosen, must match the checkpoint: rounding would hide an error.

    That of an int8 program has the dequantized weights and no quantized activations. The build is thrown away; returns
    what it showed. Raises ParityError.
    """
    files = request.fp32_reference or request.files
    if request.fp32_reference is not None:
        program = load_program(files.program)
    program = dataclasses.replace(program, precision=Precision.FP32)
    with tempfile.TemporaryDirectory(prefix="edgevit-fp32-") as temporary:
        converted = converter.convert(program, without_numeric(options), Path(temporary))
        described = dataclasses.replace(manifest, precision=Precision.FP32, entry=converted.entry, compression="")
        expected = CheckpointOutputs.load(files.outputs)
        parity = execute(Artifact(Path(temporary), described), expected)
    tolerance = Tolerance(max_relative_error=float32_bound(expected.facts.float32_error))
    check_parity(parity, tolerance, f"the fp32 reference build of {manifest.name}", why(tolerance, expected.facts))
    return describe_parity(parity)
