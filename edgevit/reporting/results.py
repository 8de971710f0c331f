"""Reads the results/ folder of a report: every file becomes a typed row of the build it measured, or a note."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import RESULTS_FOLDER
from edgevit.contract.manifest import Parity, parity_from_json
from edgevit.contract.raw_report import RawReport
from edgevit.contract.schema import MAX_RESULT_BYTES, require_version
from edgevit.contract.strict_json import read_json
from edgevit.errors import ContractError
from edgevit.infra.files import sha256_file
from edgevit.reporting.model import Accuracy, Comparison, ErrorBreakdown, Latency, Note, NoteKind, Source, WorstLayer

_SHOWN_LAYERS = 5


_LARGEST = 1e30  # of a measured number; parity writes it where values are not finite


@dataclass(frozen=True, slots=True)
class Verification:
    """One verify.json or evaluate.json: parity, task metric and checks of one build."""

    artifact_sha256: str
    parity: Parity
    accuracy: Accuracy | None
    checks: dict[str, str]
    started_utc: str
    source: Source
    error_breakdown: tuple[ErrorBreakdown, ...] = ()


@dataclass(frozen=True, slots=True)
class RankedLayers:
    """One debug.json: the layers that add most error to one build."""

    artifact_sha256: str
    layers: tuple[WorstLayer, ...]


@dataclass(slots=True)
class Results:
    """All results of present builds, by the hash of the manifest they measured; the newest verification wins."""

    verifications: dict[str, Verification] = field(default_factory=dict)
    latencies: dict[str, list[Latency]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    worst_layers: dict[str, tuple[WorstLayer, ...]] = field(default_factory=dict)


def read_results(folder: Path, builds: Collection[str]) -> tuple[Results, list[Note]]:
    """Read all results of a folder, by their endings; `builds` are the manifest hashes that are present."""
    results, notes = Results(), []
    for path in sorted((folder / RESULTS_FOLDER).glob("*.json")):
        kind = path.suffixes[-2] if len(path.suffixes) > 1 else ""
        name = path.relative_to(folder).as_posix()
        if kind not in _READERS:
            notes.append(Note(NoteKind.UNREADABLE, name, "its name ends in none of " + ", ".join(_READERS)))
            continue
        try:
            read, schema = _READERS[kind]
            document = read_json(path, MAX_RESULT_BYTES)
            require_version(document, schema, name)
            row = read(document, Source(name, sha256_file(path)))
        except ContractError as error:
            notes.append(Note(NoteKind.UNREADABLE, name, str(error).replace(f"{folder}/", "")))
            continue
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            notes.append(Note(NoteKind.UNREADABLE, name, f"not a {kind[1:]} result: {error!r}"))
            continue
        missing = [sha256 for sha256 in _measured(row) if sha256 not in builds]
        if missing:
            notes.append(Note(NoteKind.STALE, name, f"it measured build {missing[0][:12]}, which is not here"))
        else:
            _file(row, results)
    return results, notes


def _verification(document: dict[str, Any], source: Source) -> Verification:
    data = document["data"]
    return Verification(
        artifact_sha256=_text(document["artifact_sha256"]),
        parity=_parity(document["parity"]),
        accuracy=_accuracy(data, source) if data else None,
        checks={key: str(value) for key, value in document["checks"].items()},
        started_utc=_text(document["started_utc"]),
        source=source,
        error_breakdown=tuple(map(_stage, document.get("error_breakdown", ()))),
    )


def _stage(step: dict[str, Any]) -> ErrorBreakdown:
    numbers = ("score", "agreement", "snr_db", "cosine", "max_abs_error")
    return ErrorBreakdown(str(step["name"]), str(step["metric"]), **{name: _optional(step[name]) for name in numbers})


def _ranked_layers(document: dict[str, Any], source: Source) -> RankedLayers:
    adding = [error for error in document["layers"] if error["local"]["snr_db"] is not None]
    reference = str(document["reference"])
    layers = tuple(_worst_layer(error, reference) for error in adding[:_SHOWN_LAYERS])
    return RankedLayers(_text(document["artifact_sha256"]), layers)


def _worst_layer(error: dict[str, Any], reference: str) -> WorstLayer:
    layer, local = error["layer"], error["local"]
    return WorstLayer(
        reference=reference,
        place=str(layer["place"]),
        node=str(layer["node"]),
        operation=str(layer["operation"]),
        local_snr_db=_optional(local["snr_db"]),
        accumulated_snr_db=_optional(error["accumulated"]["snr_db"]),
        lsb_mismatch=_optional(local["lsb_mismatch"]),
    )


def _parity(document: dict[str, Any]) -> Parity:
    measured = ("max_abs_error", "max_relative_error", "snr_db", "cosine", "agreement")
    numbers = {name: _optional(document[name]) for name in measured}
    texts = {"runtime": str(document["runtime"]), "reason": str(document["reason"])}
    executed = document["executed"] is True
    return parity_from_json({**numbers, **texts, "executed": executed, "samples": int(document["samples"])})


def _optional(value: Any) -> float | None:
    """A number or null; anything else raises, and the file becomes a note."""
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _accuracy(data: dict[str, Any], source: Source) -> Accuracy:
    trained, checkpoint, artifact = (_optional(data[who]) for who in ("float_network", "checkpoint", "artifact"))
    return Accuracy(
        data=str(data["source"]),
        split=str(data["split"]),
        samples=int(data["samples"]),
        metric=str(data["metric"]),
        float_network=trained,
        checkpoint=checkpoint,
        artifact=artifact,
        agreement=_optional(data["agreement"]),
        drop_percentage_points=None if trained is None or artifact is None else 100 * (trained - artifact),
        source=source,
    )


def _latency(document: dict[str, Any], source: Source) -> Latency:
    raw = RawReport.from_json(document["raw"])
    if raw.why_no_latency:
        raise ContractError(f"no latency to show: {raw.why_no_latency}", fix="measure again")
    statistics = ("p50_ms", "p90_ms", "p99_ms", "min_ms", "mean_ms", "first_ms", "load_ms")
    raw_document = document["raw"]
    return Latency(
        **{name: _number(document[name]) for name in statistics},
        std_ms=_optional(document["std_ms"]),
        artifact_sha256=_text(document["artifact_sha256"]),
        batch=raw.job.batch,
        images_per_s=raw.job.batch / (_number(document["p50_ms"]) / 1e3),
        peak_memory_bytes=None if (peak := _optional(document["peak_memory_bytes"])) is None else int(peak),
        samples_ns=raw.samples_ns,
        device=raw_document["device"],
        harness=raw.harness,
        runtime=" ".join(filter(None, (raw.runtime.name, raw.runtime.version))),
        accelerator=raw.accelerator.used,
        threads=raw.threads.used,
        delegation=raw_document["delegation"],
        parity=raw_document["parity"],
        flags=tuple(str(flag) for flag in document["flags"]),
        started_utc=raw.started_utc,
        source=source,
    )


def _comparison(document: dict[str, Any], source: Source) -> Comparison:
    numbers = ("a_p50_ms", "b_p50_ms", "ratio", "low", "high", "confidence")
    texts = ("a", "b", "a_sha256", "b_sha256", "verdict")
    facts: dict[str, Any] = {name: _number(document[name]) for name in numbers}
    facts |= {name: _text(document[name]) for name in texts}
    return Comparison(
        **facts,
        flags=tuple(str(flag) for flag in document["flags"]),
        rounds=len(document["rounds"]),
        batch=int(document["rounds"][0]["a"]["job"].get("batch", 1)) if document["rounds"] else 1,
        source=source,
    )


def _measured(row: Verification | Latency | Comparison | RankedLayers) -> tuple[str, ...]:
    """The hashes of the builds that a result is about."""
    return (row.a_sha256, row.b_sha256) if isinstance(row, Comparison) else (row.artifact_sha256,)


def _file(row: Verification | Latency | Comparison | RankedLayers, results: Results) -> None:
    if isinstance(row, Comparison):
        results.comparisons.append(row)
    elif isinstance(row, Latency):
        results.latencies.setdefault(row.artifact_sha256, []).append(row)
    elif isinstance(row, RankedLayers):
        ranked = results.worst_layers.get(row.artifact_sha256, ())
        results.worst_layers[row.artifact_sha256] = (*ranked, *row.layers)
    else:
        known = results.verifications.get(row.artifact_sha256)
        older, newer = known, row
        if known is not None and known.started_utc >= row.started_utc:
            older, newer = row, known
        if newer.accuracy is None and older is not None:  # parity alone does not take an accuracy back
            newer = replace(newer, accuracy=older.accuracy)
        if older is not None and not newer.error_breakdown:
            newer = replace(newer, error_breakdown=older.error_breakdown)
        results.verifications[row.artifact_sha256] = newer


_Reader = Callable[[dict[str, Any], Source], Verification | Latency | Comparison | RankedLayers]
_READERS: dict[str, tuple[_Reader, str]] = {  # by the end of a file's name; each with the schema that it reads
    ".verify": (_verification, "edgevit.verification"),
    ".evaluate": (_verification, "edgevit.verification"),
    ".profile": (_latency, "edgevit.profile"),
    ".compare": (_comparison, "edgevit.comparison"),
    ".debug": (_ranked_layers, "edgevit.debug"),
}
