"""Does an artifact compute what its checkpoint computes? Measured in the artifact's own runtime."""

from __future__ import annotations

import dataclasses
import datetime
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.contract.manifest import (
    Executed,
    Manifest,
    NotExecuted,
    Outcome,
    Parity,
    SettingsRun,
    Tolerance,
    parity_to_json,
)
from edgevit.contract.plain_data import optional, plain
from edgevit.contract.schema import VERSION
from edgevit.contract.tolerances import why
from edgevit.data.layout import to_layout
from edgevit.data.metrics import METRICS, agreement, score
from edgevit.data.postprocess import segment_mask
from edgevit.errors import EdgevitError, ParityError, UsageError
from edgevit.infra.files import sha256_file
from edgevit.quantization import weight_storage
from edgevit.spec import Layout, Task
from edgevit.targets.base import INTERPRETER, NotExecutable
from edgevit.targets.registry import get_converter
from edgevit.verification.error_breakdown import ARTIFACT, FLOAT, StageError, break_down
from edgevit.verification.goldens import check_goldens
from edgevit.verification.parity import NOT_FINITE, Distance, distance, worst
from edgevit.verification.phone_settings import (
    Execution,
    audit_of,
    converter_of,
    execution_of,
    execution_of_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgevit.data.datasets import LabelledDataset
    from edgevit.targets.base import Session
    from edgevit.verification.reference_model import Reference

_CHUNK = 64  # images preprocessed and run together


@dataclass(frozen=True, slots=True)
class DataScore:
    """Scores of checkpoint and artifact on the same images; null for what was not run.

    metric names the task's main score; `scores` has all of them, by name and then by network. float_network is the
    metric of the network as trained, which for an artifact in int8, or with int8 weights, is not its checkpoint's: the
    cost of the conversion is the difference to this one.
    """

    source: str
    split: str
    samples: int
    metric: str  # "top-1" or "mIoU"
    checkpoint: float | None
    artifact: float | None
    agreement: float | None  # share of images, or of pixels, with the same class in both
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    skipped: int = 0  # files that cannot be read, left out of the scores
    float_network: float | None = None

    @property
    def drop(self) -> float | None:
        """What the artifact loses to the float network, as a fraction; null where one of them was not scored."""
        if self.float_network is None or self.artifact is None:
            return None
        return self.float_network - self.artifact

    def summary(self) -> str:
        """ "mIoU checkpoint 71.2 %, artifact 71.1 %; Dice ...", one clause per score."""
        clauses = []
        for metric, values in self.scores.items():
            shown = [f"{who} {100 * value:.1f} %" for who, value in values.items() if value is not None]
            clauses.append(f"{metric} {', '.join(shown) or 'not run'}")
        return "; ".join(clauses)


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` or `evaluate` found out about one artifact; NAME.verify.json or NAME.evaluate.json in results/."""

    artifact: str
    artifact_sha256: str
    checks: dict[str, str]
    parity: Parity
    data: DataScore | None
    seconds: float
    compression: str = ""  # of the stored weights, as in the manifest
    interpreter: Parity | None = None  # of the runtime's outputs with the reference interpreter's, if requested
    error_breakdown: tuple[StageError, ...] = ()  # if the stages between checkpoint and artifact ran on the same inputs
    executed: tuple[SettingsRun, ...] = ()  # under the settings of phones, where they were tried
    failures: tuple[EdgevitError, ...] = ()  # other failures, worst first; not in the document
    tolerance: Tolerance = field(default_factory=Tolerance)  # of the parity; in the manifest, not in this document
    bound_reason: str = ""  # of `tolerances.why`; not in this document either
    started_utc: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    def to_json(self) -> dict[str, Any]:
        """The document as written, schema edgevit.verification."""
        fields = plain(dataclasses.replace(self, failures=()))
        del fields["failures"], fields["tolerance"], fields["bound_reason"]
        fields["parity"] = parity_to_json(self.parity)
        fields["interpreter"] = optional(parity_to_json)(self.interpreter)
        return {"schema": "edgevit.verification", "schema_version": VERSION, **fields}

    def require(self) -> None:
        """Raise ParityError beyond the tolerance, else the worst of the other failures, if any."""
        check_parity(self.parity, self.tolerance, self.artifact, self.bound_reason)
        for failure in self.failures:
            raise failure

    def summary(self) -> str:
        """One line for people."""
        parts = [describe_parity(self.parity, self.compression)]
        if self.interpreter is not None:
            parts.append(f"against the interpreter: {describe_parity(self.interpreter)}")
        if self.executed:
            parts.append(self.checks["phone settings"])
        if self.data is not None:
            parts.append(f"on {self.data.samples} images: {self.data.summary()}")
        return "; ".join(parts)


def batch_sizes(manifest: Manifest) -> tuple[int, ...]:
    """How many images at once an artifact is tested with."""
    return (1, 3) if manifest.dynamic_batch else (1,)


def describe_parity(parity: Parity, compression: str = "") -> str:
    """ "max rel. error 8.9e-07, 121 dB, agreement 100 % over 4 inputs in litert 2.3.0", or why nothing was executed.

    compression: of the stored weights, which the line then starts with.
    """
    weights = f"weights compressed to {compression}: " if compression else ""
    if isinstance(parity, NotExecuted):
        return f"{weights}not executed: {parity.reason}"
    snr = "bit-exact" if parity.snr_db is None else f"{parity.snr_db:.0f} dB"
    return (
        f"{weights}max rel. error {parity.max_relative_error:.1e}, {snr}, "
        f"agreement {100 * parity.agreement:.1f} % over {parity.samples} inputs in {parity.runtime}"
    )


def measure(actual: np.ndarray, expected: np.ndarray, *, task: Task, runtime: str) -> Executed:
    """Compare logits (N, ...) in NCHW form sample by sample and keep the worst of each number.

    A value that is not finite makes max_relative_error infinite in effect: it is reported as an error of 1e30.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        reason = "wrong shape or values not finite"
        return Executed(runtime, len(expected), **dataclasses.asdict(NOT_FINITE), agreement=0.0, reason=reason)
    found = worst([distance(one, other) for one, other in zip(actual, expected, strict=True)])
    agreed = _agreement(actual, expected, task)
    return Executed(runtime, len(expected), **dataclasses.asdict(found), agreement=agreed)


def check_parity(parity: Parity, tolerance: Tolerance, name: str, reason: str = "") -> None:
    """Raise ParityError, which carries the numbers, if an executed artifact misses its tolerance.

    reason: that of a bound that is wider than usual, of `tolerances.why`.
    """
    if isinstance(parity, NotExecuted):
        return
    measured = Distance(parity.max_abs_error, parity.max_relative_error, parity.snr_db, parity.cosine)
    if misses := measured.misses(tolerance):
        raise ParityError(
            f"{name} does not compute what its checkpoint computes: {'; '.join(misses)}{reason and ', ' + reason}",
            fix="do not ship it; convert another precision or input size, and report the model",
            parity=parity,
        )


def examine_file(path: Path) -> Verification:
    """Check a model file without a manifest, found by `file_without_manifest`.

    How phones' builds of its runtime will treat it, and whether its outputs are the same under all their settings.
    """
    started = time.perf_counter()
    converter = converter_of(path)
    if converter is None:
        raise UsageError(f"no target runs {path.name} under the settings of phones", fix="give a .pte file")
    audit = converter.audit(path)
    execution = execution_of_file(path, converter)
    return Verification(
        path.name,
        sha256_file(path),
        {"packing": audit.summary, "phone settings": execution.summary()},
        NotExecuted(
            converter.name, "its outputs are only compared with themselves, because it came without a manifest"
        ),
        None,
        time.perf_counter() - started,
        executed=execution.rows,
        failures=_failures(audit.failure(path.name, execution.fix), execution.failure),
    )


def _failures(*errors: EdgevitError | None) -> tuple[EdgevitError, ...]:
    return tuple(error for error in errors if error is not None)


def examine(
    artifact: Artifact | str | Path,
    *,
    data: LabelledDataset | None = None,
    split: str = "test",
    reference: Reference | None = None,
    accelerator: str | None = None,
    threads: int = 1,
    interpreter: bool = False,
    stages: Mapping[str, Reference] | None = None,
    settings: bool = False,
) -> Verification:
    """Check files, format and preprocessing, run the artifact, and compare it with its checkpoint.

    data: labelled images to score on; reference: the checkpoint as a function of normalised images
    (N, 3, H, W) to logits, to score and compare on the same images. Without them the stored goldens decide.
    accelerator: by default the one that the artifact was made for.
    interpreter: also compare the runtime with the reference interpreter, which Core ML artifacts have. stages: the
    stages of the error breakdown in order, of `stages_of`; each runs on the data, or without data on the goldens.
    settings: also check how phones' builds of the runtime will treat the file, and run it under their settings.
    Raises ContractError if files, format or preprocessing are not what the manifest says. Where this machine has
    no runtime for the format, the parity is NotExecuted and says why.
    """
    started = time.perf_counter()
    artifact = load_artifact(artifact.path if isinstance(artifact, Artifact) else artifact)
    manifest = artifact.manifest
    converter = get_converter(manifest.target)
    if interpreter and not converter.ml_program:
        raise UsageError(f"no interpreter evaluates {manifest.target} artifacts", fix="leave --interpreter out")
    checks = converter.check(artifact.path, manifest)
    if weight_storage.has_qparams(manifest):
        qparams = converter.read_qparams(artifact.path, manifest)
        qparams.require_scheme(str(artifact.path))
        checks["qparams"] = qparams.summary()
    checks["goldens"] = f"{check_goldens(artifact)} images preprocessed bit-exactly"
    against = goldens = seen = None
    execution = Execution(())
    if settings and (audit := audit_of(artifact)) is not None:
        seen, execution = audit.failure(artifact.name, artifact.remake), execution_of(artifact)
        checks |= {"packing": audit.summary, "phone settings": execution.summary()}
    parity: Parity
    try:
        if execution.rows and execution.rows[0].outcome is Outcome.CRASHED:
            raise NotExecutable(f"it was not run in this process, too: {execution.rows[0].reason}")
        session = artifact.open(accelerator, threads)
    except NotExecutable as reason:
        outputs, wanted = _outputs(artifact, data, None, reference)
        parity = NotExecuted(manifest.target, reason.message)
    else:
        try:
            outputs, wanted = _outputs(artifact, data, session, reference)
            goldens = np.concatenate(_golden_outputs(artifact, session))
            parity = _parity(artifact, session, goldens, outputs, wanted)
            if interpreter:
                against = _against_interpreter(artifact, session)
        finally:
            session.close()
    breakdown = _error_breakdown(artifact, data, stages or {}, goldens if data is None else outputs)
    return Verification(
        artifact.name,
        artifact.manifest_sha256,
        checks,
        parity,
        None if data is None else _score(data, split, wanted, outputs, artifact, breakdown),
        time.perf_counter() - started,
        manifest.compression,
        against,
        breakdown,
        execution.rows,
        _failures(seen, execution.failure),
        manifest.tolerance,
        why(manifest.tolerance, manifest.reference),
    )


def _error_breakdown(
    artifact: Artifact, data: LabelledDataset | None, stages: Mapping[str, Reference], outputs: np.ndarray | None
) -> tuple[StageError, ...]:
    if not stages or outputs is None:
        return ()
    from edgevit.data.datasets import targets

    tensors = list(_golden_tensors(artifact) if data is None else _tensors(artifact, data))
    forms = {name: np.concatenate([form(tensor) for tensor in tensors]) for name, form in stages.items()}
    return break_down(
        {**forms, ARTIFACT: outputs}, None if data is None else targets(data, artifact.manifest.image_preprocess)
    )


def _golden_tensors(artifact: Artifact) -> Iterator[np.ndarray]:
    """The goldens as the checkpoint takes them (1, 3, H, W)."""
    from edgevit.data.preprocess import preprocess

    for golden in artifact.manifest.goldens:
        yield preprocess(artifact.golden_level(golden, "L0"), artifact.manifest.image_preprocess, Layout.NCHW)


def _against_interpreter(artifact: Artifact, session: Session) -> Parity:
    """Parity of the session's outputs on the goldens with those of the same file in the reference interpreter."""
    if session.accelerator == INTERPRETER:
        return NotExecuted(session.runtime, "the interpreter is what runs here; Core ML itself needs macOS")
    reference = artifact.open(accelerator=INTERPRETER)
    try:
        actual, expected = (_golden_outputs(artifact, one) for one in (session, reference))
    finally:
        reference.close()
    return measure(
        np.concatenate(actual), np.concatenate(expected), task=artifact.manifest.model.task, runtime=session.runtime
    )


def _golden_outputs(artifact: Artifact, session: Session) -> list[np.ndarray]:
    """Logits of each golden in NCHW form."""
    result = artifact.manifest.outputs[0]
    runs = (session.run(artifact.golden_input(golden.name))[result.name] for golden in artifact.manifest.goldens)
    return [_model_form(run, result.layout) for run in runs]


def _outputs(
    artifact: Artifact, data: LabelledDataset | None, session: Session | None, reference: Reference | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Logits (N, ...) of the artifact and of its checkpoint on all images; None for what cannot run."""
    outputs, wanted = [], []
    for tensor in () if data is None else _tensors(artifact, data):
        if session is not None:
            batch = len(tensor) if artifact.manifest.dynamic_batch else 1
            outputs.append(artifact.run(tensor, session=session, batch=batch))
        if reference is not None:
            wanted.append(reference(tensor))
    return (np.concatenate(outputs) if outputs else None), (np.concatenate(wanted) if wanted else None)


def _tensors(artifact: Artifact, data: LabelledDataset) -> Iterator[np.ndarray]:
    """Inputs (n, 3, H, W) of all images in chunks: a large set need not fit in memory."""
    from edgevit.data.preprocess import preprocess

    for start in range(0, len(data), _CHUNK):
        images = (data.images[i] for i in range(start, min(start + _CHUNK, len(data))))
        yield np.concatenate([preprocess(image, artifact.manifest.image_preprocess, Layout.NCHW) for image in images])


def _parity(
    artifact: Artifact,
    session: Session,
    goldens: np.ndarray,
    outputs: np.ndarray | None,
    wanted: np.ndarray | None,
) -> Parity:
    """Over the goldens, whose outputs one by one are given, and over the data if the checkpoint ran on them too.

    Goldens also run as a batch where the artifact takes several images.
    """
    manifest = artifact.manifest
    result = manifest.outputs[0]
    stored = [_model_form(artifact.golden_level(golden, "L3"), result.layout) for golden in manifest.goldens]
    actual, expected = [goldens], list(stored)
    for size in batch_sizes(manifest)[1:]:
        chosen = [i % len(manifest.goldens) for i in range(size)]
        inputs = [artifact.golden_level(manifest.goldens[i], "L2") for i in chosen]
        computed = session.run({manifest.inputs[0].name: np.concatenate(inputs)})[result.name]
        actual.append(_model_form(computed, result.layout))
        expected += [stored[i] for i in chosen]
    if outputs is not None and wanted is not None:
        actual.append(outputs)
        expected.append(wanted)
    return measure(np.concatenate(actual), np.concatenate(expected), task=manifest.model.task, runtime=session.runtime)


def _model_form(array: np.ndarray, layout: Layout) -> np.ndarray:
    return array if layout is Layout.FLAT else to_layout(array, layout, Layout.NCHW)


def _score(
    data: LabelledDataset,
    split: str,
    wanted: np.ndarray | None,
    outputs: np.ndarray | None,
    artifact: Artifact,
    breakdown: Sequence[StageError],
) -> DataScore:
    """All scores of both, and their agreement. UsageError for data whose targets are of another task."""
    from edgevit.data.datasets import require_task, targets

    require_task(artifact.manifest.model.task, data, artifact.name)
    target = targets(data, artifact.manifest.image_preprocess)
    runs = {"checkpoint": wanted, "artifact": outputs}
    found = {who: {} if logits is None else score(logits, target) for who, logits in runs.items()}
    scores = {metric: {who: values.get(metric) for who, values in found.items()} for metric in METRICS[data.task]}
    metric = METRICS[data.task][0]
    agreed = None if wanted is None or outputs is None else agreement(wanted, outputs)
    rounded = weight_storage.has_qparams(artifact.manifest)  # then the checkpoint's network is not the float one
    as_trained = next((stage.score for stage in breakdown if stage.name == FLOAT), None)
    return DataScore(
        source=data.name.removesuffix(f"/{split}"),
        split=split,
        samples=len(data),
        metric=metric,
        **scores[metric],
        agreement=agreed,
        scores=scores,
        skipped=data.skipped,
        float_network=as_trained if rounded else scores[metric]["checkpoint"],
    )


def _agreement(actual: np.ndarray, expected: np.ndarray, task: Task) -> float:
    """Share of equal top-1 classes, or mean IoU between the two masks over the classes that occur in either."""
    if task is Task.CLASSIFY:
        return float((actual.argmax(axis=1) == expected.argmax(axis=1)).mean())
    scores = []
    for one, other in zip(actual, expected, strict=True):
        mask, target = segment_mask(one[None]), segment_mask(other[None])
        for label in np.union1d(mask, target):
            scores.append(((mask == label) & (target == label)).sum() / ((mask == label) | (target == label)).sum())
    return float(np.mean(scores))
