"""`python -m benchmarks.int8`: float, post-training and trained int8 networks and their artifacts on the same pictures.

Checkpoints and artifacts are kept in artifacts/int8/ and made where they are missing. Every difference comes with a
paired bootstrap interval over the test pictures. The result is results/int8.json, where --only replaces its models
alone; `python -m benchmarks.tables` puts it into README.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import edgevit
from edgevit import log
from edgevit.artifact import Artifact
from edgevit.batching import ON_GRIDS, any_batch
from edgevit.data.imageset import ImageSet, open_imageset
from edgevit.data.preprocess import preprocess
from edgevit.devices.host import describe_host
from edgevit.drift import climb
from edgevit.log import stage
from edgevit.models import get_spec
from edgevit.provenance import provenance
from edgevit.sources import open_source
from edgevit.spec import Layout, Precision, Preprocess
from edgevit.storage import write_json
from edgevit.training.checkpoint import read_checkpoint
from edgevit.training.recipe import get_recipe

COURSE = Path(__file__).with_suffix(".toml")
RESULT = Path(__file__).parent / "results" / "int8.json"
WORK = Path(__file__).resolve().parent.parent / "artifacts" / "int8"
_RESAMPLES = 10_000
_BATCH = 64


def main() -> None:
    """Make what is missing, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models to measure; default: all of int8.toml")
    arguments = parser.parse_args()
    log.configure()
    course = tomllib.loads(COURSE.read_text())
    known = json.loads(RESULT.read_text())["models"] if RESULT.is_file() and arguments.only else []
    measured = {row["model"]: row for row in known}
    result = {
        "schema": "edgevit.int8",
        "course": course,
        "cpu": describe_host().cpu,
        "cores": os.cpu_count(),
        "provenance": provenance(("executorch", "coremltools", "ai-edge-litert", "nncf")),
    }
    for name in arguments.only or course["models"]:
        measured[name] = measure_model(name, course)
        write_json(RESULT, result | {"models": [measured[one] for one in course["models"] if one in measured]})


def measure_model(name: str, course: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of every form of one model, agreement between them, and what became of the scales."""
    test = open_imageset(course["data"], "test")
    files = _checkpoints(name, course)
    floats, int8 = _artifacts(name, files, course)
    answers = {
        "float": _network_answers(name, files["float"], test, Precision.FP32, _BATCH),
        "ptq": _network_answers(name, files["ptq"], test, Precision.INT8, _BATCH),
        "qat": _network_answers(name, files["qat"], test, Precision.INT8),  # one by one, as the artifacts run
        **{artifact.manifest.target: _artifact_answers(artifact, test) for artifact in int8},
    }
    targets = [artifact.manifest.target for artifact in int8]
    rows = []
    for form, logits in answers.items():
        row = {"form": form, "top1": _top1(logits, test), "drop": _drop(answers["float"], logits, test)}
        if form in targets:
            row |= _against(logits, answers["qat"], test)
        rows.append(row)
    for row, artifact, full in zip(rows[-len(targets) :], int8, floats, strict=True):
        row |= {
            "size_bytes": artifact.manifest.entry_size_bytes,
            "size_ratio": artifact.manifest.entry_size_bytes / full.manifest.entry_size_bytes,
            "runtime": artifact.manifest.parity.runtime,
            "checks": artifact.manifest.checks,
        }
    return {
        "model": name,
        "pictures": len(test),
        "rows": rows,
        "agreement": {
            f"{one}, {other}": _agreement(answers[one], answers[other])
            for one, other in itertools.combinations(targets, 2)
        },
        "training": read_checkpoint(files["float"]).card.training,
        "quantization": {
            form: {k: v for k, v in read_checkpoint(files[form]).card.quantization.items() if k != "activations"}
            for form in ("ptq", "qat")
        },
    }


def _checkpoints(name: str, course: dict[str, Any]) -> dict[str, Path]:
    """The float, post-training and trained int8 checkpoints; what exists is not made again."""
    files = {form: WORK / f"{name}{'' if form == 'float' else f'-{form}'}.pt" for form in ("float", "ptq", "qat")}
    data = course["data"]
    if not files["float"].is_file():
        train_set, test_set = (open_imageset(data, split) for split in ("train", "test"))
        spec = get_spec(name).for_task(len(train_set.labels), course["input_size"])
        with stage("train", model=name, data=data):
            edgevit.train(spec, train_set, test_set, get_recipe(course["recipe"]), files["float"], resume=True)
    if not files["ptq"].is_file():
        edgevit.quantize(name, weights=files["float"], data=data, out=files["ptq"])
    if not files["qat"].is_file():
        edgevit.qat(name, weights=files["float"], data=data, out=files["qat"], epochs=course["qat_epochs"], resume=True)
    return files


def _artifacts(name: str, files: dict[str, Path], course: dict[str, Any]) -> tuple[list[Artifact], list[Artifact]]:
    """The float and the int8 artifacts in the order of the targets; unchanged ones come from the cache."""
    made = []
    for form, precision in (("float", "fp32"), ("qat", "int8")):
        made.append(edgevit.convert(name, weights=files[form], target=course["targets"], precision=precision, out=WORK))
    return made[0], made[1]


def _network_answers(name: str, weights: Path, pictures: ImageSet, precision: Precision, batch: int = 1) -> np.ndarray:
    """Logits (N, classes) of the network of a checkpoint in PyTorch."""
    source = open_source(name, weights=weights, precision=precision)
    tensors = np.concatenate(_tensors(pictures, source.spec.preprocess))
    if batch > 1 and precision is Precision.INT8:
        source = dataclasses.replace(source, module=any_batch(source.module, ON_GRIDS), steps=None)
    with stage("answers", model=name, weights=weights.name):
        return np.concatenate([source.run(tensors[i : i + batch]) for i in range(0, len(tensors), batch)])


def _artifact_answers(artifact: Artifact, pictures: ImageSet) -> np.ndarray:
    session = artifact.open()
    try:
        with stage("answers", artifact=artifact.name):
            tensors = _tensors(pictures, artifact.manifest.preprocess)
            return np.concatenate([artifact.run(tensor, session=session) for tensor in tensors])
    finally:
        session.close()


def _tensors(pictures: ImageSet, contract: Preprocess) -> list[np.ndarray]:
    return [preprocess(image, contract, Layout.NCHW) for image in pictures.images]


def _top1(logits: np.ndarray, pictures: ImageSet) -> float:
    return float((logits.argmax(axis=1) == pictures.targets).mean())


def _drop(before: np.ndarray, after: np.ndarray, pictures: ImageSet) -> dict[str, float]:
    """Points of top-1 lost, with the 95 % interval of a paired bootstrap over the pictures."""
    hits = [(logits.argmax(axis=1) == pictures.targets).astype(np.float64) for logits in (before, after)]
    lost = 100 * (hits[0] - hits[1])
    random = np.random.default_rng(0)
    means = [lost[random.integers(0, len(lost), len(lost))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"points": float(lost.mean()), "low": float(low), "high": float(high)}


def _against(logits: np.ndarray, reference: np.ndarray, pictures: ImageSet) -> dict[str, float | None]:
    """How close an artifact is to the int8 network that it came from, over all pictures together."""
    _, step = climb({"int8 network": reference, "artifact": logits}, pictures.targets)
    equal = float((logits == reference).all(axis=1).mean())
    return {"agreement": step.agreement, "snr_db": step.snr_db, "equal_answers": equal}


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())


if __name__ == "__main__":
    main()
