"""`verify`: is an artifact complete, and does it compute what its checkpoint does, here and under phones' settings?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgevit.artifacts.artifact import Artifact, opened, results_folder
from edgevit.infra.files import write_json
from edgevit.log import stage
from edgevit.quantization.weight_storage import has_qparams
from edgevit.verification.checks import Verification, examine, examine_file
from edgevit.verification.phone_settings import file_without_manifest
from edgevit.verification.qparams_report import qparams
from edgevit.verification.reference_stages import open_stages


def verify(
    artifact: Artifact | str | Path,
    *,
    interpreter: bool = False,
    weights: str | Path | None = None,
    model: str | None = None,
    accelerator: str | None = None,
    threads: int = 1,
    out: str | Path | None = None,
    strict: bool = True,
) -> Verification:
    """Check an artifact's files, format and preprocessing, run it, and compare its outputs with its checkpoint's.

    artifact: an Artifact, its folder, or a model file without a manifest, whose outputs must be
    bit-exact under all settings that phones' builds of its runtime have. Files of such runtimes are always run under
    these settings, too. interpreter: also compare Core ML with the reference interpreter.
    weights: the checkpoint; then the stages between it and the file also run on the goldens for a stage-by-stage error
    breakdown, and the quantization parameters of the file are compared with its own.
    model: "file.py:factory" of a network that is not ours. accelerator: by default the one that the artifact was made
    for. threads: CPU threads of the runtime.
    The result is also written to `out`, by default results/ beside the artifact, as NAME.verify.json. strict: raise
    what is wrong once it is written; without it the caller asks `Verification.require`.
    Raises ContractError for damaged files, UsageError for weights that the artifact was not made from, ParityError
    beyond the manifest's tolerance, for other quantization parameters than the checkpoint's, and for a file that is
    wrong or crashes under a setting of phones, DeviceError where such a run failed for another reason, StorageError.
    """
    file = None if isinstance(artifact, Artifact) else file_without_manifest(artifact)
    if file is not None:
        with stage("verify", artifact=file.name) as running:
            result = examine_file(file)
            running.result = result.summary()
        path = file
    else:
        one = opened(artifact)
        with stage("verify", artifact=one.name) as running:
            result = _examined(one, interpreter, weights, model, accelerator, threads)
            running.result = result.summary()
        path = one.path
    write_json(results_folder(path, out) / f"{result.artifact}.verify.json", result.to_json())
    if strict:
        result.require()
    return result


def _examined(
    artifact: Artifact,
    interpreter: bool,
    weights: str | Path | None,
    model: str | None,
    accelerator: str | None,
    threads: int,
) -> Verification:
    stages = None if weights is None else open_stages(artifact, weights, model)
    result = examine(
        artifact, accelerator=accelerator, threads=threads, interpreter=interpreter, stages=stages, settings=True
    )
    if weights is None or not has_qparams(artifact.manifest):
        return result
    found = qparams(artifact, weights=weights, model=model, strict=False)
    failures = result.failures if found.failure is None else (*result.failures, found.failure)
    return dataclasses.replace(result, checks=result.checks | {"qparams": found.summary()}, failures=failures)
