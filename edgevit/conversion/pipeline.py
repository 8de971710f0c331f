"""The line: checkpoint -> build -> deploy -> export -> convert -> verify. Only this module chains the stages."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit import errors
from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.checkpoints.model_source import load_model, model_tier
from edgevit.contract.golden import Reference
from edgevit.conversion.cache_session import Reuse
from edgevit.conversion.worker import FP32_REFERENCE, save_references
from edgevit.data.image_io import as_rgb
from edgevit.data.preprocess import normalize_table, preprocess, to_tensor
from edgevit.data.synthetic_images import noise_image, sample_images
from edgevit.deploy.pass_manager import PASSES, Pass
from edgevit.deploy.pass_manager import deploy as run_passes
from edgevit.errors import ConversionError, UsageError, unknown_name
from edgevit.export.export_program import export
from edgevit.export.program import save_program
from edgevit.infra import process
from edgevit.infra.files import storage_errors, write_json
from edgevit.log import logger, stage
from edgevit.quantization.loading import QuantizedModel, load_quantized_model
from edgevit.quantization.weight_storage import INT8
from edgevit.spec import Layout, ModelSpec, Precision, Tier
from edgevit.targets.base import Converter, program_name
from edgevit.targets.options import options_for
from edgevit.targets.registry import converter_names, get_converter
from edgevit.verification.checks import describe_parity
from edgevit.verification.reference_model import captured_form

if TYPE_CHECKING:
    from torch import fx, nn

    from edgevit.verification.reference_model import Source

ALL = {Tier.EDGE: ("executorch", "coreml", "tflite"), Tier.SERVER: ("onnx", "aotinductor")}  # what `all` means
_PROBES = 2  # random images beside the golden ones
DEFAULT_TIMEOUT_S = 1800.0


def convert(
    model: str | nn.Module,
    *,
    target: str | Sequence[str],
    precision: str = "fp32",
    out: str | Path = "artifacts",
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    labels: Sequence[str] = (),
    spec: ModelSpec | None = None,
    replace_head: bool = False,
    options: Mapping[str, Any] | None = None,
    goldens: Sequence[str | Path] = (),
    deploy: bool = True,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    cache: bool = True,
) -> Artifact | list[Artifact]:
    """Turn a model into verified artifacts, one folder out/MODEL-PRECISION-TARGET per target.

    model: a name of `edgevit list`, "file.py:factory", or an nn.Module (with `spec` unless create_model made it).
    target: a name, several names, which are converted side by side, or "all": the targets of phones, or for a model of
    the server tier those of servers. options: of the converter, by name.
    goldens: more images to store as golden inputs beside the two built-in ones. deploy: rewrite the graph exactly.
    timeout_s: for each target; one that takes longer fails alone. cache: reuse what was made from the same input
    by the same code and tools (see edgevit.conversion.cache); a model in memory is always converted.
    Each artifact was executed and compared with the checkpoint before it appears; existing ones are replaced.
    Returns an Artifact for one target name, else a list in the order of the targets.

    Raises UsageError (arguments, weights), MissingDependency, ExportError, ConversionError, ParityError,
    StorageError. If some targets fail, the others are finished first and stay.
    """
    targets = _targets(target, model, spec)
    requests = {name: _options(get_converter(name), options or {}, precision) for name in targets}
    if not deploy and (
        precision == Precision.INT8 or any(one.get("weight_compression") == INT8 for one in requests.values())
    ):
        raise UsageError("int8 scales belong to the deployed form", fix="leave --no-deploy (deploy=False) out")
    out = _writable(Path(out))
    goldens, labels = list(goldens), list(labels)
    arguments = {
        "precision": precision,
        "num_classes": num_classes,
        "input_size": input_size,
        "labels": labels,
        "replace_head": replace_head,
        "deploy": deploy,
    }
    reuse = Reuse(model, weights, goldens, arguments, requests, wanted=cache)
    found = reuse.fetch(out)
    missing = [name for name in targets if name not in found]
    if missing:
        with reuse.recording():
            load = load_quantized_model if precision == Precision.INT8 else load_model
            source = load(
                model,
                weights=weights,
                num_classes=num_classes,
                input_size=input_size,
                labels=tuple(labels),
                spec=spec,
                replace_head=replace_head,
            )
        with tempfile.TemporaryDirectory(prefix="edgevit-") as temporary:
            folder = Path(temporary)
            captured = _prepare(source, folder, goldens)
            groups: dict[str, list[Converter]] = {}  # targets by the program they take
            for name in missing:
                write_json(folder / f"{name}.request.json", {"options": requests[name], "out": str(out.resolve())})
                converter = get_converter(name)
                groups.setdefault(program_name(converter), []).append(converter)
            takers = [converters[0] for converters in groups.values()]
            programs = _programs(captured, source, Precision(precision), folder, takers, PASSES if deploy else ())
            found |= _run_workers(folder, groups, programs, source.spec.name, timeout_s, reuse)
    artifacts = [found[name] for name in targets]
    return artifacts[0] if isinstance(target, str) and target != "all" else artifacts


def _targets(target: str | Sequence[str], model: str | nn.Module, spec: ModelSpec | None) -> list[str]:
    names = [target] if isinstance(target, str) else list(target)
    known = converter_names()
    chosen: list[str] = []
    for name in names:
        if name != "all" and name not in known:
            raise unknown_name("target", name, (*known, "all"))
        meant = ALL[model_tier(model, spec)] if name == "all" else (name,)
        chosen += [one for one in meant if one not in chosen]
    if not chosen:
        raise UsageError("no target", fix="choose from: " + ", ".join((*known, "all")))
    return chosen


def _options(converter: Converter, options: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The converter's options with their defaults. Raises UsageError for unknown names or a precision it lacks."""
    if precision not in tuple(Precision):
        raise unknown_name("precision", precision, Precision)
    if Precision(precision) not in converter.precisions:
        known = ", ".join(sorted(converter.precisions))
        raise UsageError(f"{converter.name} has no precision {precision}", fix=f"it has: {known}")
    return options_for(converter, options)


def _writable(out: Path) -> Path:
    """Fail before the long work, not after it."""
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    return out


def _prepare(source: Source, folder: Path, goldens: Sequence[str | Path]) -> fx.GraphModule:
    """The checkpoint's own answers, which land in `folder` for the workers, and its graph."""
    spec = source.spec
    with stage("reference", model=spec.name) as running:
        images = _reference_images(source, goldens)
        probes = np.concatenate([_noise(spec, seed=7 + i) for i in range(_PROBES)])
        save_references(folder, _outputs_of(source, images), probes, _one_by_one(source, probes))
        running.result = f"{len(images)} images, {_PROBES} probes through the checkpoint"
    if isinstance(source, QuantizedModel):
        fp32_reference = source.float_build
        (folder / FP32_REFERENCE).mkdir()
        save_references(
            folder / FP32_REFERENCE, _outputs_of(fp32_reference, images), probes, _one_by_one(fp32_reference, probes)
        )
        return source.module
    with stage("capture", model=spec.name) as running:
        captured = captured_form(source)
        running.result = f"{len(captured.graph.nodes)} nodes"
    return captured


def _programs(
    captured: fx.GraphModule,
    source: Source,
    precision: Precision,
    folder: Path,
    takers: Sequence[Converter],
    passes: tuple[Pass, ...],
) -> Iterator[str]:
    """Deploy and export for each converter in turn; its program's name comes when folder/NAME holds the program."""
    spec = source.spec
    for converter in takers:
        name, kernels, batches = program_name(converter), converter.kernels, converter.dynamic_batch
        with stage("deploy", model=spec.name, kernels=kernels) as running:
            module, steps = (
                (captured, source.network.passes)
                if isinstance(source, QuantizedModel)
                else run_passes(captured, spec, passes, kernels)
            )
            write_json(folder / f"{name}.deploy.json", [dataclasses.asdict(step) for step in steps])
            running.result = ", ".join(f"{step.name} x{step.changes}" for step in steps) or "nothing to rewrite"
        with stage("export", model=spec.name, kernels=kernels) as running:
            facts = {"weights": source.weights, "kernels": kernels}
            program = export(
                module, spec, precision=precision, labels=source.labels, provenance=facts, dynamic_batch=batches
            )
            save_program(program, folder / name)
            if isinstance(source, QuantizedModel):
                fp32_reference = export(source.float_build.module, spec, labels=source.labels, dynamic_batch=batches)
                save_program(fp32_reference, folder / FP32_REFERENCE / name)
            running.result = f"{len(program.exported.graph.nodes)} nodes"
        yield name


def _reference_images(source: Source, goldens: Sequence[str | Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels and input tensor of each golden image."""
    images = sample_images() | {f"image{i}": as_rgb(path) for i, path in enumerate(goldens)}
    return {name: (pixels, preprocess(pixels, source.spec.preprocess)) for name, pixels in images.items()}


def _outputs_of(source: Source, images: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Reference]:
    return [Reference(name, pixels, tensor, source.run(tensor)) for name, (pixels, tensor) in images.items()]


def _noise(spec: ModelSpec, seed: int) -> np.ndarray:
    """The tensor of an image of random pixels: an image, because some artifacts take nothing else."""
    table = normalize_table(spec.preprocess.mean, spec.preprocess.std)
    return to_tensor(noise_image(*spec.preprocess.crop, seed), table, Layout.NCHW)


def _one_by_one(source: Source, tensors: np.ndarray) -> np.ndarray:
    """Batch 1, as the artifacts run: a batch may be summed in another order."""
    return np.concatenate([source.run(tensors[i : i + 1]) for i in range(len(tensors))])


def _run_workers(
    folder: Path,
    groups: Mapping[str, Sequence[Converter]],
    programs: Iterator[str],
    model: str,
    timeout_s: float,
    reuse: Reuse,
) -> dict[str, Artifact]:
    """One process per target, side by side, each begun when its program is there.

    Raises the first failure after all have ended.
    """
    stop = threading.Event()
    running: dict[str, Future[Artifact]] = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            for program in programs:
                for converter in groups[program]:
                    arguments = (folder, converter.name, model, timeout_s, reuse, stop)
                    running[converter.name] = pool.submit(_run_worker, *arguments)
            failures = [error for error in (future.exception() for future in running.values()) if error is not None]
        except BaseException:
            stop.set()
            raise
    for failure in failures[1:]:
        logger.error("also failed: %s", failure)
    if failures:
        raise failures[0]
    return {name: future.result() for name, future in running.items()}


def _run_worker(
    folder: Path, target: str, model: str, timeout_s: float, reuse: Reuse, stop: threading.Event
) -> Artifact:
    with stage("convert", model=model, target=target) as running:
        argv = [sys.executable, "-W", "ignore", "-m", "edgevit.conversion.worker", folder, target, str(os.getpid())]
        try:
            completed = process.run(argv, timeout_s=timeout_s, env=_environment(), stop=stop)
        except process.TimedOut:
            raise ConversionError(
                f"the {target} converter did not end within {timeout_s:g} s and was stopped",
                fix="give it more with --timeout (timeout_s in Python)",
            ) from None
        logger.debug("output of the %s worker:\n%s%s", target, completed.stdout, completed.stderr)
        result = folder / f"{target}.result.json"
        if not result.is_file():
            raise ConversionError(
                f"the {target} converter ended with {completed.ending}: {completed.last_error_line or 'no message'}",
                fix="--debug shows its whole output; `edgevit doctor` checks its libraries",
            )
        document = json.loads(result.read_text())
        if "error" in document:
            raise getattr(errors, document["error"])(document["message"], document["hint"])
        artifact = load_artifact(document["artifact"])
        manifest = artifact.manifest
        parity = describe_parity(manifest.parity, manifest.compression)
        running.result = f"{artifact.path} {manifest.entry_size_bytes / 1e6:.1f} MB, {parity}"
    reuse.keep(target, artifact, document["manifest_sha256"])
    return artifact


def _environment() -> dict[str, str]:
    """The workers share the cores: more threads than cores only make them wait for each other."""
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    return {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
