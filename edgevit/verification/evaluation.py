"""How good artifacts are on labelled images, beside the checkpoint they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.artifacts.artifact import Artifact, opened, results_folder
from edgevit.contract.manifest import NotExecuted, Parity
from edgevit.data.corrupt_images import readable
from edgevit.data.datasets import LabelledDataset, open_dataset, require_task
from edgevit.errors import UsageError
from edgevit.infra.files import write_json
from edgevit.log import stage
from edgevit.quantization import weight_storage
from edgevit.targets.registry import get_converter
from edgevit.verification.checks import DataScore, Verification, examine
from edgevit.verification.error_breakdown import INT8, ROUNDED
from edgevit.verification.reference_model import load_source, remembering
from edgevit.verification.reference_stages import stages_of

if TYPE_CHECKING:
    from edgevit.verification.reference_model import Reference


def evaluate(
    artifacts: Artifact | str | Path | Sequence[Artifact | str | Path],
    *,
    data: str | Path | LabelledDataset,
    weights: str | Path | None = None,
    model: str | None = None,
    split: str = "test",
    accelerator: str | None = None,
    threads: int = 1,
    out: str | Path | None = None,
    strict: bool = True,
) -> list[Verification]:
    """Score artifacts, and with `weights` their checkpoint, on the same labelled images; one result each.

    data: "digits", "photos", "tiles", a folder (see `open_dataset`) or a data set; the scores are top-1, or mIoU and
    Dice for segmentation, whose agreement is that of pixels. model: "file.py:factory" of a network that is not ours.
    With the weights of artifacts in int8, or with int8 weights, the float network that was quantized is scored too, and
    each such result has a stage-by-stage error breakdown.
    accelerator: by default the one that each artifact was made for. threads: CPU threads of the runtime. Results are
    also written to `out`, by default results/ beside each artifact, as NAME.evaluate.json. Where this machine has no
    runtime for a format its accuracy is null; Core ML runs in the reference interpreter there, and the result names it.
    strict: raise what is wrong once all results are written; without it the caller asks `Verification.require`.
    Raises UsageError for data of another task or other classes than the model's and for weights that the artifacts were
    not made from, ParityError if an artifact is beyond its tolerance on these images, StorageError.
    """
    named = artifacts if isinstance(artifacts, Sequence) and not isinstance(artifacts, str) else [artifacts]
    several = [opened(one) for one in named]
    images = open_dataset(data, split)
    for artifact in several:
        _require_classes(artifact, images)
    images = readable(images)
    results = []
    for artifact, (reference, stages) in zip(several, _references(several, weights, model), strict=True):
        with stage("evaluate", artifact=artifact.name) as running:
            result = examine(
                artifact,
                data=images,
                split=split,
                reference=reference,
                accelerator=accelerator,
                threads=threads,
                stages=stages,
            )
            running.result = result.summary()
        write_json(results_folder(artifact.path, out) / f"{artifact.name}.evaluate.json", result.to_json())
        results.append(result)
    if strict:
        for result in results:
            result.require()
    return results


def _references(
    artifacts: Sequence[Artifact], weights: str | Path | None, model: str | None
) -> list[tuple[Reference | None, Mapping[str, Reference]]]:
    """For each artifact its reference network, and where it is quantized the stages of the error breakdown."""
    if weights is None:
        return [(None, {})] * len(artifacts)
    source = load_source(list(artifacts), weights, model)
    plain = remembering(source.run)
    known: dict[tuple[str, str], Mapping[str, Reference]] = {}
    found: list[tuple[Reference | None, Mapping[str, Reference]]] = []
    for artifact in artifacts:
        manifest = artifact.manifest
        stages: Mapping[str, Reference] = {}
        if weight_storage.has_qparams(manifest):
            key = manifest.compression, get_converter(manifest.target).kernels
            if key not in known:
                known[key] = stages_of(artifact, source, weights, model)
            stages = known[key]
        found.append((stages.get(INT8) or stages.get(ROUNDED) or plain, stages))
    return found


def _require_classes(artifact: Artifact, images: LabelledDataset) -> None:
    """Raise UsageError where index and label of a class differ between both: a score would mean nothing."""
    require_task(artifact.manifest.model.task, images, artifact.name)
    classes, known = artifact.manifest.model.num_classes, artifact.manifest.labels
    if len(images.labels) != classes:
        raise UsageError(
            f"{artifact.name} has {classes} classes, {images.name} has {len(images.labels)}",
            fix="give the data set that the model was trained for",
        )
    if known != images.labels and set(known) == set(images.labels):
        raise UsageError(
            f"{artifact.name} and {images.name} have the same labels in another order",
            fix="convert with --labels in the order of the training, or rename the class folders",
        )


def header(results: Sequence[Verification]) -> tuple[str, ...]:
    """The column names of `row`: two columns per score of the task."""
    scores = [f"{metric} {who}" for metric, values in _data(results[0]).scores.items() for who in values]
    return "artifact", "where", *scores, "drop from float", "agreement", "images"


def row(result: Verification) -> tuple[str, ...]:
    """The cells under `header`; "-" for what was not run. The drop is in percentage points of the first score."""
    data = _data(result)
    drop = "-" if data.drop is None else f"{100 * data.drop:+.2f}"
    scores = [_percent(share) for values in data.scores.values() for share in values.values()]
    return (
        result.artifact, _where(result.parity), *scores, drop, _percent(data.agreement), str(data.samples)
    )  # fmt: skip


def _data(result: Verification) -> DataScore:
    if result.data is None:
        raise ValueError(f"{result.artifact} was scored on no data")
    return result.data


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _where(parity: Parity) -> str:
    """The runtime that gave the outputs; the interpreter must not be mistaken for a device."""
    if isinstance(parity, NotExecuted):
        return "not executed"
    return "reference parity (interpreter)" if parity.interpreted else parity.runtime
