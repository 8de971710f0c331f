"""`python -m benchmarks.int8`: float, post-training and trained int8 networks and their artifacts on the same images.

int8.toml says which models, each with its data, recipe and size. Checkpoints and artifacts are kept in artifacts/int8/
and made where they are missing. Every difference comes with a paired bootstrap interval over the test images. The
result is results/int8.json, where --only replaces its models alone; `python -m benchmarks.tables` puts it into the
documents. --out FOLDER keeps all of it elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgevit
from benchmarks.converted import single
from edgevit import log
from edgevit.artifacts.artifact import Artifact
from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.checkpoints.model_source import load_model
from edgevit.data.datasets import LabelledDataset, open_dataset, targets
from edgevit.data.metrics import METRICS, MIOU, agreement, confusion, overlap_scores, score
from edgevit.data.preprocess import preprocess
from edgevit.errors import ParityError
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.log import stage
from edgevit.profiling.devices.host_facts import describe_host
from edgevit.quantization.loading import load_quantized_model
from edgevit.spec import Layout, Precision, Preprocess
from edgevit.verification.error_breakdown import break_down

EXPERIMENTS = Path(__file__).with_suffix(".toml")
RESULT = Path(__file__).parent / "results" / "int8.json"
WORK = Path(__file__).resolve().parent.parent / "artifacts" / "int8"
_RESAMPLES = 10_000
_BATCH = 64


def main() -> None:
    """Make what is missing, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models to measure; default: all of int8.toml")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="another int8.toml")
    parser.add_argument("--out", type=Path, help="folder for checkpoints, artifacts and int8.json")
    arguments = parser.parse_args()
    log.configure()
    work, kept = (WORK, RESULT) if arguments.out is None else (arguments.out, arguments.out / RESULT.name)
    experiments = read_experiments(arguments.experiments)
    known = json.loads(kept.read_text())["models"] if kept.is_file() and arguments.only else []
    measured = {row["model"]: row for row in known}
    result = {
        "schema": "edgevit.int8",
        "cpu": describe_host().cpu,
        "cores": os.cpu_count(),
        "provenance": provenance(("executorch", "coremltools", "ai-edge-litert", "nncf")),
    }
    for name in arguments.only or experiments:
        measured[name] = measure_model(experiments[name], work)
        write_json(kept, result | {"models": [measured[one] for one in experiments if one in measured]})


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of int8 file: a target, and options of its converter."""

    target: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One model's row of int8.toml: what it is trained and scored on, how, and the int8 files made of it, by name.

    max_drop: percentage points that post-training int8 may lose where layers may stay in float; None is not tried.
    """

    model: str
    data: str
    recipe: str
    input_size: int
    qat_epochs: int
    forms: dict[str, Form]
    max_drop: float | None = None


def read_experiments(path: Path) -> dict[str, Experiment]:
    """The rows of a TOML file by model."""
    document = tomllib.loads(path.read_text())
    forms = {name: Form(**form) for name, form in document["forms"].items()}
    return {row["model"]: Experiment(**row, forms=forms) for row in document["models"]}


def measure_model(experiment: Experiment, work: Path) -> dict[str, Any]:
    """Scores of every form of one model, agreement between them, and what became of the scales."""
    name = experiment.model
    test = open_dataset(experiment.data, "test")
    files = _checkpoints(experiment, work)
    quantized = [form for form in files if form != "float"]
    target = targets(test, metadata_of(files["float"]).preprocess)
    floats, int8, refused = _artifacts(experiment, files, work)
    outputs = {
        "float": network_outputs(name, files["float"], test, Precision.FP32),
        **{form: network_outputs(name, files[form], test, Precision.INT8) for form in quantized},
        **{form: artifact_outputs(artifact, test) for form, artifact in int8.items()},
    }
    rows = []
    for form, logits in outputs.items():
        row: dict[str, Any] = {
            "form": form,
            "scores": score(logits, target),
            "drop": drop(outputs["float"], logits, target),
        }
        if form in int8:
            manifest = int8[form].manifest
            row |= against(logits, outputs["qat"], target)
            row |= {
                "size_bytes": manifest.entry_size_bytes,
                "size_ratio": manifest.entry_size_bytes / floats[manifest.target].manifest.entry_size_bytes,
                "runtime": manifest.parity.runtime,
                "checks": manifest.checks,
            }
        rows.append(row)
    rows += [{"form": form, "refused": why} for form, why in refused.items()]
    return {
        "model": name,
        "experiment": dataclasses.asdict(experiment),
        "metric": METRICS[test.task][0],
        "images": len(test),
        "rows": rows,
        "agreement": {
            f"{one}, {other}": agreement(outputs[one], outputs[other]) for one, other in itertools.combinations(int8, 2)
        },
        "training": metadata_of(files["float"]).training,
        "quantization": {
            form: {k: v for k, v in (metadata_of(files[form]).quantization or {}).items() if k != "activations"}
            for form in quantized
        },
    }


def _checkpoints(experiment: Experiment, work: Path) -> dict[str, Path]:
    """The float checkpoint and the int8 ones, by form; what exists is not made again."""
    name, data = experiment.model, experiment.data
    post_training = {"ptq": None} | ({} if experiment.max_drop is None else {"budget": experiment.max_drop})
    files = {"float": float_checkpoint(experiment, work)}
    files |= {form: work / f"{name}-{form}.pt" for form in (*post_training, "qat")}
    for form, max_drop in post_training.items():
        if not files[form].is_file():
            edgevit.quantize(name, weights=files["float"], data=data, out=files[form], max_drop=max_drop)
    if not files["qat"].is_file():
        edgevit.qat(
            name, weights=files["float"], data=data, out=files["qat"], epochs=experiment.qat_epochs, resume=True
        )
    return files


def float_checkpoint(experiment: Experiment, work: Path) -> Path:
    """The trained float checkpoint of a model in a folder; trained there if it is missing."""
    out = work / f"{experiment.model}.pt"
    if not out.is_file():
        edgevit.train(
            experiment.model,
            data=experiment.data,
            recipe=experiment.recipe,
            input_size=experiment.input_size,
            out=out,
            resume=True,
        )
    return out


def _artifacts(
    experiment: Experiment, files: dict[str, Path], work: Path
) -> tuple[dict[str, Artifact], dict[str, Artifact], dict[str, str]]:
    """The float artifacts by target, the int8 ones by form, and why the others were refused.

    Unchanged ones come from the cache.
    """
    floats = edgevit.convert(
        experiment.model,
        weights=files["float"],
        target=sorted({form.target for form in experiment.forms.values()}),
        out=work,
    )
    assert isinstance(floats, list)  # of several targets
    int8, refused = {}, {}
    for name, form in experiment.forms.items():
        try:
            int8[name] = single(
                edgevit.convert(
                    experiment.model,
                    weights=files["qat"],
                    target=form.target,
                    precision="int8",
                    options=form.options,
                    out=work,
                )
            )
        except ParityError as error:  # a finding of this benchmark
            refused[name] = error.message
    return {artifact.manifest.target: artifact for artifact in floats}, int8, refused


def metadata_of(weights: Path) -> CheckpointMetadata:
    """What a checkpoint of ours says of itself."""
    metadata = read_checkpoint(weights).metadata
    assert metadata is not None  # edgevit wrote it
    return metadata


def network_outputs(name: str, weights: Path, images: LabelledDataset, precision: Precision) -> np.ndarray:
    """Logits (N, classes, ...) of the network of a checkpoint in PyTorch."""
    load = load_quantized_model if precision is Precision.INT8 else load_model
    source = load(name, weights=weights)
    tensors = np.concatenate(_tensors(images, source.spec.preprocess))
    with stage("outputs", model=name, weights=weights.name):
        return np.concatenate([source.run(tensors[i : i + _BATCH]) for i in range(0, len(tensors), _BATCH)])


def artifact_outputs(artifact: Artifact, images: LabelledDataset) -> np.ndarray:
    """Logits (N, classes, ...) of an artifact in its own runtime."""
    session = artifact.open()
    try:
        with stage("outputs", artifact=artifact.name):
            tensors = _tensors(images, artifact.manifest.image_preprocess)
            return np.concatenate([artifact.run(tensor, session=session) for tensor in tensors])
    finally:
        session.close()


def _tensors(images: LabelledDataset, contract: Preprocess) -> list[np.ndarray]:
    return [preprocess(image, contract, Layout.NCHW) for image in images.images]


def drop(before: np.ndarray, after: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Percentage points of the task's score lost, with the 95 % interval of a paired bootstrap over the images."""
    tallies = [_tallies(logits, target) for logits in (before, after)]
    first, second = (_judged(tally.sum(axis=0)) for tally in tallies)
    lost = 100 * (first - second)
    random = np.random.default_rng(0)
    count = len(target)
    drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(_RESAMPLES)]
    weights = np.stack(drawn).astype(np.float64)  # (resamples, N): how often each image was drawn
    sums = [np.tensordot(weights, tally, axes=1) for tally in tallies]
    points = [100 * (_judged(one) - _judged(other)) for one, other in zip(*sums, strict=True)]
    low, high = np.percentile(points, [2.5, 97.5])
    return {"percentage_points": float(lost), "low": float(low), "high": float(high)}


def _tallies(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What each image adds to the score, float64 (N, ...): right and wrong predictions, or pixels by class."""
    if target.ndim == 1:
        hits = logits.argmax(axis=1) == target
        return np.stack([hits, ~hits], axis=1).astype(np.float64)
    return confusion(logits, target).astype(np.float64)


def _judged(tally: np.ndarray) -> float:
    """The score that the task is judged by, from the sum of tallies: top-1 or mIoU."""
    return float(tally[0] / tally.sum()) if tally.ndim == 1 else overlap_scores(tally)[MIOU]


def against(logits: np.ndarray, reference: np.ndarray, target: np.ndarray) -> dict[str, float | None]:
    """How close an artifact is to a network, over all images together."""
    _, step = break_down({"network": reference, "artifact": logits}, target)
    equal = float((logits == reference).reshape(len(logits), -1).all(axis=1).mean())
    return {"agreement": step.agreement, "snr_db": step.snr_db, "equal_outputs": equal}


if __name__ == "__main__":
    main()
