"""One conversion in a process of its own: `python -m edgevit.conversion.worker REQUEST RESULT PARENT`.

Converters bring large libraries that clash, hang or call sys.exit; here that costs one target, never the others.
REQUEST and RESULT are the files of a WorkerRequest and of its WorkerResult; PARENT is the process that waits for it.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.artifacts.artifact import Artifact, file_entries, load_artifact
from edgevit.contract.golden import write_goldens
from edgevit.contract.manifest import AppliedPass, Manifest, ModelFacts, NotExecuted
from edgevit.contract.provenance import Provenance
from edgevit.contract.tolerances import why
from edgevit.conversion.artifact_checks import (
    check_packing,
    check_qparams,
    check_reference_build,
    execute,
    execute_as_phones,
)
from edgevit.conversion.worker_messages import CheckpointOutputs, WorkerRequest, WorkerResult, save_failure
from edgevit.data.preprocess import normalize_table
from edgevit.export.program import Program, load_program, runner
from edgevit.infra import process
from edgevit.infra.files import atomic_folder
from edgevit.infra.provenance import provenance
from edgevit.quantization.weight_storage import INT8
from edgevit.spec import Precision
from edgevit.targets.base import Converted
from edgevit.targets.options import name_parts
from edgevit.targets.registry import get_converter
from edgevit.verification.checks import batch_sizes, check_parity
from edgevit.verification.phone_settings import waiting_child

if TYPE_CHECKING:
    from edgevit.targets.base import Converter

# New objects between two looks for cycles. Graph rewriting makes millions that live until the end, and the default of
# 700 spends a tenth of a conversion on finding nothing; 10 % more memory is the price.
_GC_THRESHOLD = 200_000


def main(asked: Path, answered: Path, parent: int) -> None:
    """Run the request in `asked` and leave the result, or the error that ended it, in `answered`."""
    process.end_with(parent)
    gc.set_threshold(_GC_THRESHOLD)
    try:
        convert(WorkerRequest.load(asked)).save(answered)
    except Exception as error:  # whatever a converter's libraries raise is the outcome of this process
        traceback.print_exc()  # --debug shows it
        save_failure(answered, error)


def convert(request: WorkerRequest) -> WorkerResult:
    """Write, check, execute and compare one artifact. Nothing stays if any step fails."""
    converter = get_converter(request.target)
    options = converter.Options(**request.options)
    original = program = load_program(request.files.program)
    expected = CheckpointOutputs.load(request.files.outputs)
    if getattr(options, "weight_compression", None) == INT8:
        program, expected = _rounded(original, expected)
    name = "-".join([program.spec.name, program.precision.value, request.target, *name_parts(options)])
    destination = request.out / name
    with atomic_folder(destination) as building, waiting_child(converter) as child:
        started = time.perf_counter()
        converted = converter.convert(program, options, building)
        seconds = time.perf_counter() - started
        origin = Provenance.from_json(
            program.provenance
            | provenance(converter.packages)
            | {"options": dataclasses.asdict(options), "conversion_s": round(seconds, 3)}
        )
        manifest = _describe(name, program, converter, converted, origin, building, request.applied, expected)
        checks = converter.check(building, manifest)
        if program.precision is Precision.INT8 or program is not original:
            checks["qparams"] = check_qparams(program, converter, manifest, building)
        if program.precision is not Precision.FP32 or converted.compression:
            checks["fp32 reference build"] = check_reference_build(original, converter, options, manifest, request)
        if manifest.dynamic_batch:
            checks["batch sizes"] = ", ".join(map(str, batch_sizes(manifest)))
        manifest = dataclasses.replace(manifest, checks=checks)
        artifact = Artifact(building, manifest)
        if child is not None:
            checks["packing"] = check_packing(artifact)
        parity = execute(artifact, expected)
        check_parity(parity, manifest.tolerance, name, why(manifest.tolerance, manifest.reference))
        if child is not None:
            manifest = dataclasses.replace(manifest, executed=execute_as_phones(artifact, child))
        dataclasses.replace(manifest, parity=parity).write(building)
        manifest_sha256 = load_artifact(building).manifest_sha256
    return WorkerResult(destination, manifest_sha256)


def _rounded(program: Program, outputs: CheckpointOutputs) -> tuple[Program, CheckpointOutputs]:
    """The program with int8 weights and its own outputs: its artifact is compared with them."""
    from edgevit.quantization.weight_only import rounded_program

    rounded = rounded_program(program)
    run = runner(rounded)
    goldens = [dataclasses.replace(golden, logits=run(golden.tensor)) for golden in outputs.goldens]
    probes = run(outputs.probes)
    return rounded, dataclasses.replace(outputs, goldens=goldens, probe_logits=probes)


def _describe(
    name: str,
    program: Program,
    converter: Converter,
    converted: Converted,
    origin: Provenance,
    building: Path,
    applied: tuple[AppliedPass, ...],
    expected: CheckpointOutputs,
) -> Manifest:
    """The manifest of what the converter wrote, with labels and goldens beside it; parity is measured later."""
    spec = program.spec
    goldens = write_goldens(
        building,
        expected.goldens,
        preprocess=spec.preprocess,
        task=spec.task,
        source=converted.inputs[0],
        result=converted.outputs[0],
    )
    if program.labels:
        (building / "labels.txt").write_text("\n".join(program.labels) + "\n", encoding="utf-8")
    return Manifest(
        name=name,
        model=ModelFacts(spec.name, spec.task, spec.tier, spec.num_classes, spec.params, spec.macs, spec.paper),
        target=converter.name,
        precision=program.precision,
        entry=converted.entry,
        inputs=converted.inputs,
        outputs=converted.outputs,
        preprocess=spec.preprocess,
        normalize_table=normalize_table(spec.preprocess.mean, spec.preprocess.std).astype("<f4").tobytes(),
        labels=program.labels,
        files=file_entries(building),
        goldens=goldens,
        tolerance=converted.tolerance or expected.tolerance,
        parity=NotExecuted(converter.name),
        lowering=converted.lowering,
        deploy=applied,
        checks={},
        provenance=origin,
        classifier=converted.classifier,
        compression=converted.compression,
        dynamic_batch=program.dynamic_batch,
        accelerator=converted.accelerator,
        reference=expected.facts,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
