"""Gathers what was built and measured in a folder and writes it as one page, tables and data. Measures nothing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.contract.manifest import FILE_NAME, Executed, Manifest, NotExecuted, Parity, Tolerance
from edgevit.contract.plain_data import plain
from edgevit.errors import ContractError, UsageError, unknown_name
from edgevit.infra.files import write_bytes
from edgevit.models import is_listed
from edgevit.reporting.model import (
    Agreement,
    ArtifactRow,
    Latency,
    NextCommand,
    Note,
    NoteKind,
    ReportData,
    Source,
    Status,
    Training,
)
from edgevit.reporting.results import Results, Verification, read_results

FORMATS = ("html", "md", "csv", "json")


def report(folder: str | Path, *, out: str | Path | None = None, formats: Iterable[str] | None = None) -> list[Path]:
    """Write one report over everything built and measured in a folder, and return the paths, in the given order.

    folder: holds artifact folders and their results/. out: where report.<format> is written, by default the folder.
    formats: of FORMATS, by default all. A number is shown only for the build it was measured on.
    Raises UsageError for an unknown format or a folder without an artifact, MissingDependency, StorageError.
    """
    wanted = list(dict.fromkeys(formats or FORMATS))
    for name in wanted:
        if name not in FORMATS:
            raise unknown_name("report format", name, FORMATS)
    data = collect(Path(folder))
    target = Path(folder) if out is None else Path(out)
    documents = {target / f"report.{name}": _renderer(name)(data) for name in wanted}
    for path, text in documents.items():
        write_bytes(path, text.encode())
    return list(documents)


def collect(folder: Path) -> ReportData:
    """Read every manifest below `folder` and every result in its results/ folder.

    A result counts only for the very build it measured: it carries the hash of that build's manifest.
    All others become notes. Raises UsageError if there is no artifact.
    """
    artifacts, notes = _read_artifacts(folder)
    results, more = read_results(folder, [artifact.manifest_sha256 for artifact in artifacts])
    rows = tuple(_artifact_row(folder, artifact, results) for artifact in artifacts)
    compared = {row.manifest_sha256 for row in rows if _has_accuracy(row)}
    notes += [*more, *_withheld(results, compared), *_missing(rows)]
    rows = tuple(row if row.manifest_sha256 in compared else replace(row, latencies=()) for row in rows)
    pairs = tuple(pair for pair in results.comparisons if {pair.a_sha256, pair.b_sha256} <= compared)
    return ReportData(
        title=", ".join(dict.fromkeys(row.model["name"] for row in rows)),
        generated_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        verdict=_verdict(rows),
        artifacts=rows,
        comparisons=pairs,
        notes=tuple(notes),
        next_commands=tuple(_next_commands(folder, rows, bool(pairs))),
    )


def _renderer(name: str) -> Callable[[ReportData], str]:
    """The function that writes one format; imported only when asked for, since plotly.js alone is 5 MB."""
    if name == "html":
        from edgevit.reporting.html import html

        return html
    if name == "json":
        return lambda data: json.dumps(data.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    from edgevit.reporting import tables

    return {"md": tables.markdown, "csv": tables.csv_text}[name]


def _read_artifacts(folder: Path) -> tuple[list[Artifact], list[Note]]:
    """The whole artifacts directly below `folder`, by name, and a note for each broken one."""
    found, notes = [], []
    for path in sorted(folder.glob(f"*/{FILE_NAME}")):
        try:
            found.append(load_artifact(path.parent))
        except ContractError as error:
            notes.append(Note(NoteKind.BROKEN, path.parent.name, error.message.replace(f"{folder}/", "")))
    if not found:
        broken = f": {notes[0].message}" if notes else ""
        raise UsageError(
            f"{folder} holds no whole artifact{broken}",
            fix="give the folder that holds the artifact folders; `edgevit convert` writes one",
        )
    return found, notes


def _artifact_row(folder: Path, artifact: Artifact, results: Results) -> ArtifactRow:
    manifest, sha256 = artifact.manifest, artifact.manifest_sha256
    document = manifest.to_json()
    verified = results.verifications.get(sha256)
    latencies = tuple(sorted(results.latencies.get(sha256, ()), key=lambda run: run.batch))
    built = Source((artifact.path / FILE_NAME).relative_to(folder).as_posix(), sha256)
    return ArtifactRow(
        name=manifest.name,
        folder=artifact.path.name,
        manifest_sha256=sha256,
        model=document["model"],
        target=manifest.target,
        precision=manifest.precision.value + (f", weights {manifest.compression}" if manifest.compression else ""),
        entry=manifest.entry,
        size_bytes=manifest.entry_size_bytes,
        files=tuple(document["files"]),
        inputs=tuple(document["inputs"]),
        outputs=tuple(document["outputs"]),
        preprocess=_without_table(document["preprocess"]),
        tolerance=document["tolerance"],
        lowering=document["lowering"],
        deploy=tuple(document["deploy"]),
        checks=manifest.checks | (verified.checks if verified else {}),
        provenance=_without_training(document["provenance"]),
        training=_training(document["provenance"]["weights"]),
        agreement=_agreement(manifest, built, verified, latencies),
        accuracy=verified.accuracy if verified else None,
        latencies=latencies,
        error_breakdown=verified.error_breakdown if verified else (),
        worst_layers=results.worst_layers.get(sha256, ()),
    )


def _agreement(
    manifest: Manifest, built: Source, verified: Verification | None, latencies: tuple[Latency, ...]
) -> Agreement:
    """The parity that counts: of the verification, else of the build itself; one that ran before one that did not.

    Where neither could run, the golden that a device ran while it was profiled is what there is.
    """
    candidates = [(verified.parity, verified.source)] if verified else []
    candidates.append((manifest.parity, built))
    parity, source = next((pair for pair in candidates if isinstance(pair[0], Executed)), candidates[0])
    if isinstance(parity, NotExecuted):
        if not verified and not parity.reason:
            return Agreement(Status.NOT_VERIFIED)
        if latencies:
            return _agreement_on_device(latencies[0])
    return Agreement(status=_judge(parity, manifest.tolerance), source=source, **plain(parity))


def _agreement_on_device(run: Latency) -> Agreement:
    status = {True: Status.AGREES, False: Status.DIFFERS, None: Status.UNJUDGED}[run.parity["within_tolerance"]]
    error, snr_db = run.parity["max_relative_error"], run.parity["snr_db"]
    return Agreement(status, run.runtime, 1, max_relative_error=error, snr_db=snr_db, source=run.source)


def _judge(parity: Parity, bound: Tolerance) -> Status:
    """Hold measured numbers against the manifest's bounds. A bound whose number is absent is not met."""
    if isinstance(parity, NotExecuted):
        return Status.NOT_EXECUTED
    if bound.bounds_nothing:
        return Status.UNJUDGED
    unmeasured = bound.min_snr_db is not None and parity.snr_db is None and parity.max_abs_error != 0
    if unmeasured or bound.missed_by(parity.max_relative_error, parity.snr_db):
        return Status.DIFFERS
    return Status.REFERENCE if parity.interpreted else Status.AGREES


def _without_table(preprocess: dict[str, Any] | None) -> dict[str, Any] | None:
    return preprocess and {key: value for key, value in preprocess.items() if key != "normalize_table"}


def _training(weights: dict[str, Any]) -> Training | None:
    training = weights.get("training")
    if training is None:
        return None
    facts = {key: value for key, value in training.items() if key != "curve"}
    return Training(weights.get("file", ""), weights.get("sha256", ""), facts, tuple(training.get("curve") or ()))


def _without_training(provenance: dict[str, Any]) -> dict[str, Any]:
    return provenance | {"weights": {key: value for key, value in provenance["weights"].items() if key != "training"}}


def _has_accuracy(row: ArtifactRow) -> bool:
    """Whether a speed may be shown: the outputs of this very build were compared with the checkpoint's."""
    return row.agreement.status in (Status.AGREES, Status.REFERENCE, Status.DIFFERS, Status.UNJUDGED)


def _withheld(results: Results, compared: set[str]) -> list[Note]:
    """Speeds of builds that nobody compared with the checkpoint: named, not shown."""
    timed = [run for runs in results.latencies.values() for run in runs if run.artifact_sha256 not in compared]
    pairs = [pair for pair in results.comparisons if not {pair.a_sha256, pair.b_sha256} <= compared]
    files = [run.source.file for run in timed] + [pair.source.file for pair in pairs]
    message = "not shown: the outputs of this build were not compared with the checkpoint's"
    return [Note(NoteKind.WITHHELD, file, message) for file in files]


def _missing(rows: Iterable[ArtifactRow]) -> list[Note]:
    notes = []
    for row in rows:
        if row.agreement.status is Status.NOT_VERIFIED:
            notes.append(Note(NoteKind.MISSING, row.name, "not verified: its outputs were not compared"))
        if not row.latencies and row.agreement.status not in (Status.NOT_EXECUTED, Status.REFERENCE):
            notes.append(Note(NoteKind.MISSING, row.name, "no profile of this build: its latency is unknown"))
    return notes


def _verdict(rows: tuple[ArtifactRow, ...]) -> str:
    """One sentence that claims only what ran: "3 artifacts: 2 agree with the checkpoint, 1 not executed"."""
    total = f"{len(rows)} artifact{'s' if len(rows) > 1 else ''}"
    count = {status: sum(row.agreement.status is status for row in rows) for status in Status}
    agreeing = count[Status.AGREES]
    if agreeing == len(rows):
        claim = "all agree with the checkpoint" if len(rows) > 1 else "agrees with the checkpoint"
        return f"{total}, {claim}."
    parts = []
    if count[Status.DIFFERS]:
        parts.append(f"{count[Status.DIFFERS]} {_verb(count[Status.DIFFERS], 'differ')} from the checkpoint")
    if agreeing:
        parts.append(f"{agreeing} {_verb(agreeing, 'agree')} with the checkpoint")
    if count[Status.REFERENCE]:
        parts.append(
            f"{count[Status.REFERENCE]} {_verb(count[Status.REFERENCE], 'agree')} in the reference interpreter"
        )
    if count[Status.UNJUDGED]:
        parts.append(f"{count[Status.UNJUDGED]} measured without a stated bound")
    if count[Status.NOT_EXECUTED]:
        parts.append(f"{count[Status.NOT_EXECUTED]} not executed here")
    if count[Status.NOT_VERIFIED]:
        parts.append(f"{count[Status.NOT_VERIFIED]} not verified yet")
    return f"{total}: {', '.join(parts)}."


def _verb(count: int, verb: str) -> str:
    return verb if count > 1 else verb + "s"


def _next_commands(folder: Path, rows: tuple[ArtifactRow, ...], compared: bool) -> list[NextCommand]:
    """What would fill the report's gaps, in the order of the line."""
    commands = []
    for row in rows:
        path = shlex.quote(str(folder / row.folder))
        own = "" if is_listed(row.model["name"]) else " --model FILE.py:FACTORY"
        if row.agreement.status in (Status.NOT_VERIFIED, Status.DIFFERS):
            why = "compare its outputs with the checkpoint's"
            commands.append(NextCommand(f"edgevit verify {path}", f"{row.name}: {why}"))
        elif row.agreement.status in (Status.NOT_EXECUTED, Status.REFERENCE):
            commands.append(NextCommand(f"edgevit verify {path}", f"{row.name}: on a machine with its runtime"))
        elif not row.latencies:
            commands.append(NextCommand(f"edgevit profile {path}", f"{row.name}: measure its latency on this machine"))
        if row.accuracy is None:
            command = f"edgevit evaluate {path} --data FOLDER --weights CHECKPOINT{own}"
            commands.append(NextCommand(command, f"{row.name}: accuracy of both on labelled images"))
    timed = [shlex.quote(str(folder / row.folder)) for row in rows if row.latencies]
    if len(timed) > 1 and not compared:
        why = "time both in turns and give the ratio with its interval"
        commands.append(NextCommand(f"edgevit profile --compare {timed[0]} {timed[1]}", why))
    commands.append(NextCommand(f"edgevit report {shlex.quote(str(folder))}", "write this report again"))
    return commands
