"""The line: checkpoint -> build -> deploy -> export -> convert -> verify. Only this module chains the stages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.artifacts.artifact import Artifact
from edgevit.checkpoints.model_source import load_model
from edgevit.contract.golden import Reference
from edgevit.conversion.cache_session import CacheSession
from edgevit.conversion.request import (
    ALL,
    DEFAULT_TIMEOUT_S,
    ConversionRequest,
    chosen_labels,
    chosen_precision,
    chosen_targets,
)
from edgevit.conversion.worker_messages import CheckpointOutputs, ProgramFiles, WorkerRequest
from edgevit.conversion.worker_processes import run_workers
from edgevit.data.image_io import as_rgb
from edgevit.data.preprocess import normalize_table, preprocess, to_tensor
from edgevit.data.synthetic_images import noise_image, sample_images
from edgevit.deploy.pass_manager import PASSES, Pass, deploy
from edgevit.export.export_program import export
from edgevit.export.program import save_program
from edgevit.infra.files import storage_errors
from edgevit.log import stage
from edgevit.quantization.loading import QuantizedModel, load_quantized_model
from edgevit.spec import Layout, ModelSpec, Precision
from edgevit.targets.base import Converter, program_name
from edgevit.targets.registry import get_converter
from edgevit.verification.reference_model import captured_form
from edgevit.verification.reference_outputs import (
    ReferenceOutputs,
    float_reference,
    integer_reference,
    warn_of_range,
)

if TYPE_CHECKING:
    from torch import fx, nn

    from edgevit.contract.manifest import AppliedPass
    from edgevit.data.image_io import ImageSource
    from edgevit.verification.reference_model import Source

_PROBES = 2  # random images beside the golden ones
_OUTPUTS, _FP32_OUTPUTS = "outputs.npz", "fp32_outputs.npz"  # of the checkpoint, and of its fp32 reference build


def convert(
    model: str | nn.Module,
    *,
    target: str | Sequence[str],
    precision: str = "fp32",
    out: str | Path = "artifacts",
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    labels: str | Path | Sequence[str] = (),
    spec: ModelSpec | None = None,
    replace_head: bool = False,
    options: Mapping[str, Any] | None = None,
    goldens: Sequence[ImageSource] = (),
    deploy: bool = True,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    cache: bool = True,
) -> Artifact | list[Artifact]:
    """Turn a model into verified artifacts, one folder out/MODEL-PRECISION-TARGET per target.

    model: a name of `edgevit list`, "file.py:factory", or an nn.Module (with `spec` unless create_model made it).
    target: a name, several names, which are converted side by side, or "all": the targets of phones, or for a model of
    the server tier those of servers. precision: fp32, fp16, bf16, or int8 from an int8 checkpoint.
    weights: a checkpoint, without which the weights are random. num_classes, input_size (pixels of each side): by
    default the checkpoint's, or the published ones. labels: one for each class, or a text file with one a line, by
    default the checkpoint's. replace_head: keep a new classifier where the class counts differ.
    options: of the converter, by name; "TARGET.NAME" is for that target alone.
    goldens: more images to store as golden inputs beside the two built-in ones. deploy: rewrite the graph exactly.
    timeout_s: for each target; one that takes longer fails alone. cache: reuse what was made from the same input
    by the same code and tools (see edgevit.conversion.cache); a model in memory is always converted.
    Each artifact was executed and compared with the checkpoint before it appears; existing ones are replaced.
    Returns an Artifact for one target name, else a list in the order of the targets.

    Raises UsageError (arguments, weights), MissingDependency, ExportError, ConversionError, ParityError,
    StorageError. If some targets fail, the others are finished first and stay.
    """
    request = ConversionRequest(
        model,
        targets=chosen_targets(target, model, spec),
        precision=chosen_precision(precision),
        out=Path(out),
        weights=None if weights is None else Path(weights),
        num_classes=num_classes,
        input_size=input_size,
        labels=chosen_labels(labels),
        spec=spec,
        replace_head=replace_head,
        options=dict(options or {}),
        goldens=tuple(Path(image) if isinstance(image, str) else image for image in goldens),
        deploy=deploy,
        timeout_s=timeout_s,
        cache=cache,
    )
    artifacts = converted(request)
    return artifacts[0] if isinstance(target, str) and target != ALL else artifacts


def converted(request: ConversionRequest) -> list[Artifact]:
    """The artifacts of a request, one for each of its targets, made or taken from the cache."""
    _require_writable(request.out)
    cache = CacheSession(request)
    found = cache.fetch()
    missing = [get_converter(name) for name in request.targets if name not in found]
    if missing:
        with cache.recording():
            load = load_quantized_model if request.precision is Precision.INT8 else load_model
            source = load(
                request.model,
                weights=request.weights,
                num_classes=request.num_classes,
                input_size=request.input_size,
                labels=request.labels,
                spec=request.spec,
                replace_head=request.replace_head,
            )
        with tempfile.TemporaryDirectory(prefix="edgevit-") as temporary:
            folder = Path(temporary)
            captured = _prepare(source, request, folder)
            workers = _worker_requests(captured, source, request, missing, folder)
            found |= run_workers(workers, folder, model=source.spec.name, timeout_s=request.timeout_s, keep=cache.keep)
    return [found[name] for name in request.targets]


def _require_writable(out: Path) -> None:
    """Fail before the long work, not after it."""
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def _prepare(source: Source, request: ConversionRequest, folder: Path) -> fx.GraphModule:
    """The checkpoint's own outputs, which land in `folder` for the workers, and its graph."""
    spec = source.spec
    captured = _captured(source)
    with stage("reference", model=spec.name) as running:
        images = _reference_images(spec, request.goldens)
        probes = np.concatenate([_noise(spec, seed=7 + i) for i in range(_PROBES)])
        tensors = np.concatenate([probes, *(tensor for _, tensor in images.values())])
        if isinstance(source, QuantizedModel):
            found = integer_reference(source, tensors)
            build = float_reference(source.float_build, source.network.deployed, tensors)
            _save_outputs(build, images, probes, folder / _FP32_OUTPUTS)
        else:
            found = float_reference(source, captured, tensors, request.precision)
            converters = [get_converter(name) for name in request.targets]
            kept = all(getattr(one, "keeps_float32", False) for one in converters)  # older plug-ins have no such field
            if not kept or request.precision is not Precision.FP32:
                warn_of_range(spec.name, found.out_of_range)
        _save_outputs(found, images, probes, folder / _OUTPUTS)
        running.result = f"{len(images)} images, {_PROBES} probes through the checkpoint in {found.facts.arithmetic}"
    return captured


def _captured(source: Source) -> fx.GraphModule:
    if isinstance(source, QuantizedModel):
        return source.module
    with stage("capture", model=source.spec.name) as running:
        captured = captured_form(source)
        running.result = f"{len(captured.graph.nodes)} nodes"
    return captured


def _worker_requests(
    captured: fx.GraphModule, source: Source, request: ConversionRequest, converters: Sequence[Converter], folder: Path
) -> Iterator[WorkerRequest]:
    """Deploy and export once for all converters that take the same program; their requests come when it is saved."""
    groups: dict[str, list[Converter]] = {}
    for converter in converters:
        groups.setdefault(program_name(converter), []).append(converter)
    for name, takers in groups.items():
        passes = PASSES if request.deploy else ()
        applied = _save_program(captured, source, request.precision, folder, takers[0], passes)
        reference = ProgramFiles(folder / f"{name}.fp32", folder / _FP32_OUTPUTS)
        for converter in takers:
            yield WorkerRequest(
                target=converter.name,
                options=request.options_of(converter.name),
                out=request.out.resolve(),
                files=ProgramFiles(folder / name, folder / _OUTPUTS),
                applied=applied,
                fp32_reference=reference if isinstance(source, QuantizedModel) else None,
            )


def _save_program(
    captured: fx.GraphModule,
    source: Source,
    precision: Precision,
    folder: Path,
    converter: Converter,
    passes: tuple[Pass, ...],
) -> tuple[AppliedPass, ...]:
    """Deploy and export for a converter; returns the passes that changed the graph.

    The program lands in folder/NAME and the fp32 reference build of an int8 one in folder/NAME.fp32.
    """
    spec = source.spec
    name, kernels, batches = program_name(converter), converter.kernels, converter.dynamic_batch
    with stage("deploy", model=spec.name, kernels=kernels) as running:
        module, steps = (
            (captured, source.network.passes)
            if isinstance(source, QuantizedModel)
            else deploy(captured, spec, passes, kernels)
        )
        running.result = ", ".join(f"{step.name} x{step.changes}" for step in steps) or "nothing to rewrite"
    with stage("export", model=spec.name, kernels=kernels) as running:
        facts = {"weights": source.weights, "kernels": kernels}
        program = export(
            module, spec, precision=precision, labels=source.labels, provenance=facts, dynamic_batch=batches
        )
        save_program(program, folder / name)
        if isinstance(source, QuantizedModel):
            fp32_reference = export(source.float_build.module, spec, labels=source.labels, dynamic_batch=batches)
            save_program(fp32_reference, folder / f"{name}.fp32")
        running.result = f"{len(program.exported.graph.nodes)} nodes"
    return tuple(steps)


def _reference_images(spec: ModelSpec, goldens: Sequence[ImageSource]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels and input tensor of each golden image."""
    images = sample_images() | {f"image{i}": as_rgb(path) for i, path in enumerate(goldens)}
    return {name: (pixels, preprocess(pixels, spec.preprocess)) for name, pixels in images.items()}


def _save_outputs(
    found: ReferenceOutputs, images: Mapping[str, tuple[np.ndarray, np.ndarray]], probes: np.ndarray, path: Path
) -> None:
    """Outputs of the probes, then of the images, for a worker."""
    logits = found.outputs
    goldens = [
        Reference(name, pixels, tensor, logits[place : place + 1])
        for place, (name, (pixels, tensor)) in enumerate(images.items(), start=len(probes))
    ]
    CheckpointOutputs(goldens, probes, logits[: len(probes)], found.tolerance, found.facts).save(path)


def _noise(spec: ModelSpec, seed: int) -> np.ndarray:
    """The tensor of an image of random pixels: an image, because some artifacts take nothing else."""
    table = normalize_table(spec.preprocess.mean, spec.preprocess.std)
    return to_tensor(noise_image(*spec.preprocess.crop, seed), table, Layout.NCHW)
