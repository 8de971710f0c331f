"""One conversion in a process of its own: `python -m edgevit.conversion.worker FOLDER TARGET PARENT`.

Converters bring large libraries that clash, hang or call sys.exit; here that costs one target, never the others.
FOLDER holds what `pipeline` wrote: PROGRAM/ with the program, PROGRAM.deploy.json, references.npz, TARGET.request.json
and, for an int8 program, twin/PROGRAM/ with its float form. The worker writes the
artifact atomically, after it was executed and compared, and then TARGET.result.json. PARENT is the process that
waits for the result.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit import errors
from edgevit.artifacts.artifact import Artifact, file_entries, load_artifact
from edgevit.contract.golden import Reference, write_goldens
from edgevit.contract.manifest import Executed, Manifest, ModelFacts, Parity, applied_pass_from_json
from edgevit.data.preprocess import normalize_table
from edgevit.export.program import Program, load_program, runner
from edgevit.infra import process
from edgevit.infra.files import atomic_folder, write_json
from edgevit.infra.provenance import provenance
from edgevit.quantization.model_qparams import compare_qparams
from edgevit.quantization.weight_storage import INT8
from edgevit.spec import Precision
from edgevit.targets.base import Converted, NotExecutable, program_name
from edgevit.targets.options import name_parts, without_numeric
from edgevit.targets.registry import get_converter
from edgevit.verification.checks import TOLERANCES, batch_sizes, check_parity, describe_parity, measure
from edgevit.verification.phone_settings import Child, audit_of, execution_of, waiting_child

if TYPE_CHECKING:
    from edgevit.targets.base import Converter


FP32_REFERENCE = "fp32_reference"  # folder of the float forms of int8 programs, with references of its own

# New objects between two looks for cycles. Graph rewriting makes millions that live until the end, and the default of
# 700 spends a tenth of a conversion on finding nothing; 10 % more memory is the price.
_GC_THRESHOLD = 200_000


def main(folder: Path, target: str, parent: int) -> None:
    """Convert and record the outcome; errors with a fix become part of the result."""
    process.end_with(parent)
    gc.set_threshold(_GC_THRESHOLD)
    request = json.loads((folder / f"{target}.request.json").read_text())
    try:
        program = load_program(folder / program_name(get_converter(target)))
        path, manifest_sha256 = convert(program, folder, target, request)
        result = {"artifact": str(path), "manifest_sha256": manifest_sha256}
    except errors.EdgevitError as error:
        result = {"error": type(error).__name__, "message": error.message, "hint": error.fix}
    write_json(folder / f"{target}.result.json", result)


def convert(program: Program, folder: Path, target: str, request: dict[str, Any]) -> tuple[Path, str]:
    """Write, check, execute and compare one artifact; returns its folder and the hash of its manifest.

    Nothing stays if any step fails.
    """
    converter = get_converter(target)
    options = converter.Options(**request["options"])
    name = "-".join([program.spec.name, program.precision.value, target, *name_parts(options)])
    original, answering = program, folder
    if getattr(options, "weight_compression", None) == INT8:
        program, answering = _rounded(program, folder)
    destination = Path(request["out"]) / name
    with atomic_folder(destination) as building, waiting_child(converter) as child:
        started = time.perf_counter()
        converted = converter.convert(program, options, building)
        seconds = time.perf_counter() - started
        manifest = _describe(name, program, converter, converted, building, folder, answering)
        manifest = dataclasses.replace(
            manifest,
            provenance=program.provenance
            | provenance(converter.packages)
            | {"options": dataclasses.asdict(options), "conversion_s": round(seconds, 3)},
        )
        checks = converter.check(building, manifest)
        if program.precision is Precision.INT8 or program is not original:
            checks["qparams"] = _check_qparams(program, converter, manifest, building)
        if program.precision is not Precision.FP32 or converted.compression:
            checks["fp32 reference build"] = _check_graph(original, converter, options, manifest, folder)
        if manifest.dynamic_batch:
            checks["batch sizes"] = ", ".join(map(str, batch_sizes(manifest)))
        manifest = dataclasses.replace(manifest, checks=checks)
        artifact = Artifact(building, manifest)
        if child is not None:
            checks["packing"] = _look_at(artifact)
        parity = _execute(artifact, answering)
        check_parity(parity, manifest.tolerance, name)
        if child is not None:
            manifest = dataclasses.replace(manifest, executed=_run_as_phones(artifact, child))
        dataclasses.replace(manifest, parity=parity).write(building)
        manifest_sha256 = load_artifact(building).manifest_sha256
    return destination, manifest_sha256


def _describe(
    name: str,
    program: Program,
    converter: Converter,
    converted: Converted,
    building: Path,
    folder: Path,
    answering: Path,
) -> Manifest:
    """The manifest of what the converter wrote, with labels and goldens beside it; parity still to be measured.

    answering: the folder with the references.
    """
    spec = program.spec
    steps = json.loads((folder / f"{program_name(converter)}.deploy.json").read_text())
    goldens = write_goldens(
        building,
        _references(answering),
        preprocess=spec.preprocess,
        task=spec.task,
        source=converted.inputs[0],
        result=converted.outputs[0],
    )
    if program.labels:
        (building / "labels.txt").write_text("\n".join(program.labels) + "\n", encoding="utf-8")
    return Manifest(
        name=name,
        model=ModelFacts(
            spec.name, spec.task, spec.tier, spec.num_classes, spec.input_size, spec.params, spec.macs, spec.paper
        ),
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
        tolerance=converted.tolerance or TOLERANCES[program.precision],
        parity=Parity(False, converter.name),
        lowering=converted.lowering,
        deploy=tuple(applied_pass_from_json(step) for step in steps),
        checks={},
        provenance={},
        classifier=converted.classifier,
        compression=converted.compression,
        dynamic_batch=program.dynamic_batch,
        accelerator=converted.accelerator,
    )


def save_references(folder: Path, references: list[Reference], probes: np.ndarray, outputs: np.ndarray) -> None:
    """Images with the checkpoint's logits, and random probes (N, 3, H, W) with theirs, for the workers."""
    arrays = {"probes": probes, "answers": outputs}
    for reference in references:
        for part in ("pixels", "tensor", "logits"):
            arrays[f"{reference.name}.{part}"] = getattr(reference, part)
    np.savez(folder / "references.npz", **arrays)


def _rounded(program: Program, folder: Path) -> tuple[Program, Path]:
    """The program with int8 weights, and a folder with its own answers: they are what its artifact is held to."""
    from edgevit.quantization.weight_only import rounded_program

    rounded = rounded_program(program)
    with np.load(folder / "references.npz") as arrays:
        probes = arrays["probes"]
    output = runner(rounded)
    references = [dataclasses.replace(known, logits=output(known.tensor)) for known in _references(folder)]
    answering = folder / f"{program.provenance['kernels']}-rounded-{os.getpid()}"
    answering.mkdir()
    save_references(answering, references, probes, output(probes))
    return rounded, answering


def _references(folder: Path) -> list[Reference]:
    with np.load(folder / "references.npz") as arrays:
        names = sorted({key.removesuffix(".pixels") for key in arrays.files if key.endswith(".pixels")})
        return [
            Reference(name, *(arrays[f"{name}.{part}"] for part in ("pixels", "tensor", "logits"))) for name in names
        ]


def _execute(artifact: Artifact, folder: Path) -> Parity:
    """Run the goldens and the probes in the target's own runtime and compare with the checkpoint's answers.

    One by one, and also several at once where the artifact takes several.
    """
    manifest = artifact.manifest
    try:
        session = artifact.open()
    except NotExecutable as reason:
        return Parity(False, manifest.target, reason=reason.message)
    try:
        with np.load(folder / "references.npz") as arrays:
            probes, outputs = arrays["probes"], arrays["answers"]
        references = _references(folder)
        tensors = np.concatenate([probes, *(r.tensor for r in references)])
        expected = np.concatenate([outputs, *(r.logits for r in references)])
        sizes = batch_sizes(manifest)
        actual = np.concatenate([artifact.run(tensors, session=session, batch=size) for size in sizes])
        expected = np.concatenate([expected] * len(sizes))
        return measure(actual, expected, task=manifest.model.task, runtime=session.runtime)
    finally:
        session.close()


def _look_at(artifact: Artifact) -> str:
    """What the file shows of how phones' builds of the runtime will treat it. Raises ConversionError for any fault."""
    audit = audit_of(artifact)
    if audit.faults:
        raise errors.ConversionError(
            f"{artifact.name} would be wrong on phones: {'; '.join(audit.faults)}",
            fix="write those modules as plain arithmetic, convolutions and matrix products, and report the model",
        )
    return audit.summary


def _run_as_phones(artifact: Artifact, child: Child) -> tuple[Executed, ...]:
    """Run the file under all settings that they have, and raise whatever goes wrong."""
    execution = execution_of(artifact, child)
    if execution.failure is not None:
        raise execution.failure
    artifact.manifest.checks["phone settings"] = execution.summary()
    return execution.rows


def _check_qparams(program: Program, converter: Converter, manifest: Manifest, building: Path) -> str:
    """The file must hold the program's weights and grids to the bit. Raises ParityError naming what differs."""
    from edgevit.quantization.expected_qparams import program_qparams

    comparison = compare_qparams(converter.read_qparams(building, manifest), program_qparams(program.exported))
    if not comparison.equal:
        raise errors.ParityError(
            f"{manifest.name} does not hold the scales of its checkpoint: {comparison.summary()}",
            fix="do not ship it; report the model",
        )
    return comparison.summary()


def _check_graph(program: Program, converter: Converter, options: Any, manifest: Manifest, folder: Path) -> str:
    """The same program in fp32, no numeric option chosen, must match the checkpoint: rounding would hide an error.

    That of an int8 program has the weights of its grids and no grid for activations.
    The twin is thrown away; what it showed goes into the manifest's checks.
    """
    if program.precision is Precision.INT8:
        folder = folder / FP32_REFERENCE
        program = load_program(folder / program_name(converter))
    program = dataclasses.replace(program, precision=Precision.FP32)
    options = without_numeric(options)
    with tempfile.TemporaryDirectory(prefix="edgevit-twin-") as temporary:
        converted = converter.convert(program, options, Path(temporary))
        fp32_reference = dataclasses.replace(manifest, precision=Precision.FP32, entry=converted.entry, compression="")
        parity = _execute(Artifact(Path(temporary), fp32_reference), folder)
    check_parity(parity, TOLERANCES[Precision.FP32], f"the fp32 reference build of {manifest.name}")
    return describe_parity(parity)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
