"""How good artifacts are on labelled pictures, beside the checkpoint they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgevit.artifact import Artifact, load_artifact
from edgevit.contract.manifest import Parity
from edgevit.data.imageset import ImageSet, open_imageset
from edgevit.drift import INT8
from edgevit.errors import UsageError
from edgevit.ladder import ladder_of
from edgevit.log import stage
from edgevit.spec import Precision, Task
from edgevit.storage import write_json
from edgevit.verification import Verification, check_parity, examine, open_source_of, remembering

HEADER = ("artifact", "where", "top-1 checkpoint", "top-1 artifact", "points", "agreement", "pictures")


def evaluate(
    artifacts: Artifact | str | Path | Sequence[Artifact | str | Path],
    *,
    data: str,
    weights: str | Path | None = None,
    model: str | None = None,
    split: str = "test",
    accelerator: str | None = None,
    threads: int = 1,
    out: str | Path | None = None,
) -> list[Verification]:
    """Score artifacts, and with `weights` their checkpoint, on the same labelled pictures; one result each.

    data: "digits", or a folder with one subfolder per class. model: "file.py:factory" of a network that is not ours.
    With the weights of int8 artifacts their float network is scored too, and each result has the ladder of drift.
    accelerator: by default the one that each artifact was made for. Results also land in `out`, by default results/
    beside each artifact. Where this machine has no runtime for a format its accuracy is null; Core ML runs in the
    reference interpreter there, and the result says so.
    Raises UsageError for models that do not classify, for other classes than the data's and for weights that the
    artifacts were not made from, and ParityError after all results are written if an artifact is beyond its tolerance
    on these pictures.
    """
    named = artifacts if isinstance(artifacts, Sequence) and not isinstance(artifacts, str) else [artifacts]
    opened = [one if isinstance(one, Artifact) else load_artifact(one) for one in named]
    for artifact in opened:
        if artifact.manifest.model.task is not Task.CLASSIFY:
            raise UsageError(f"{artifact.name} segments; evaluate scores classes", hint="look at masks with `predict`")
    pictures = open_imageset(data, split)
    for artifact in opened:
        _require_classes(artifact, pictures)
    ladder, reference = {}, None
    if weights is not None:
        source = open_source_of(opened, weights, model)
        if opened[0].manifest.precision is Precision.INT8:
            ladder = ladder_of(opened[0], source, weights, model)
        reference = ladder.get(INT8) or remembering(source.run)
    results = []
    for artifact in opened:
        with stage("evaluate", artifact=artifact.name) as running:
            result = examine(
                artifact,
                data=pictures,
                split=split,
                reference=reference,
                accelerator=accelerator,
                threads=threads,
                ladder=ladder,
            )
            running.result = result.summary()
        folder = artifact.path.parent / "results" if out is None else Path(out)
        write_json(folder / f"{artifact.name}.evaluate.json", result.to_json())
        results.append(result)
    for artifact, result in zip(opened, results, strict=True):
        check_parity(result.parity, artifact.manifest.tolerance, artifact.name)
    return results


def _require_classes(artifact: Artifact, pictures: ImageSet) -> None:
    """Raise UsageError where index and label of a class would not mean the same to both: a score would say nothing."""
    classes, known = artifact.manifest.model.num_classes, artifact.manifest.labels
    if len(pictures.labels) != classes:
        raise UsageError(
            f"{artifact.name} has {classes} classes, {pictures.name} has {len(pictures.labels)}",
            hint="give the data set that the model was trained for",
        )
    if known != pictures.labels and set(known) == set(pictures.labels):
        raise UsageError(
            f"{artifact.name} and {pictures.name} have the same labels in another order",
            hint="convert with --labels in the order of the training, or rename the class folders",
        )


def row(result: Verification) -> tuple[str, ...]:
    """The cells of HEADER; "-" for what was not run."""
    data = result.data
    points = "-" if None in (data.checkpoint, data.artifact) else f"{100 * (data.artifact - data.checkpoint):+.2f}"
    shares = (data.checkpoint, data.artifact, data.agreement)
    checkpoint, artifact, agreement = ("-" if share is None else f"{100 * share:.2f} %" for share in shares)
    return result.artifact, _where(result.parity), checkpoint, artifact, points, agreement, str(data.samples)


def _where(parity: Parity) -> str:
    """The runtime that gave the answers; nobody shall take the interpreter for a device."""
    if not parity.executed:
        return "not executed"
    return "reference parity (interpreter)" if parity.runtime.startswith("reference") else parity.runtime
