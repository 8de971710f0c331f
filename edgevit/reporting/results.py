"""Reads the results/ folder of a report: every file becomes a typed row of the build it measured, or a note."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import RESULTS_FOLDER
from edgevit.contract.manifest import Parity
from edgevit.contract.raw_report import RawReport
from edgevit.contract.schema import MAX_DOCUMENT_BYTES
from edgevit.errors import ContractError
from edgevit.infra.files import sha256_file
from edgevit.reporting.model import Accuracy, Comparison, ErrorBreakdown, Latency, Note, NoteKind, Source, WorstLayer

_SHOWN_LAYERS = 5
_FIX = "measure again; the file was edited or cut off"


@dataclass(frozen=True, slots=True)
class Verification:
    """One verify.json or evaluate.json: parity, task metric and checks of one build."""

    artifact_sha256: str
    parity: Parity
    accuracy: Accuracy | None
    checks: dict[str, str]
    started_utc: str
    source: Source
    drift: tuple[ErrorBreakdown, ...] = ()


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
    """Read all results of a folder, told apart by their endings; `builds` are the manifest hashes that are present."""
    results, notes = Results(), []
    for path in sorted((folder / RESULTS_FOLDER).glob("*.json")):
        kind = path.suffixes[-2] if len(path.suffixes) > 1 else ""
        name = path.relative_to(folder).as_posix()
        if kind not in _READERS:
            notes.append(Note(NoteKind.UNREADABLE, name, "its name ends in none of " + ", ".join(_READERS)))
            continue
        try:
            row = _READERS[kind](_read_json(path), Source(name, sha256_file(path)))
        except ContractError as error:
            notes.append(Note(NoteKind.UNREADABLE, name, error.message))
            continue
        except (KeyError, TypeError, ValueError) as error:
            notes.append(Note(NoteKind.UNREADABLE, name, f"not a {kind[1:]} result: {error!r}"))
            continue
        missing = [sha256 for sha256 in _measured(row) if sha256 not in builds]
        if missing:
            notes.append(Note(NoteKind.STALE, name, f"it measured build {missing[0][:12]}, which is not here"))
        else:
            _file(row, results)
    return results, notes


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise ContractError(f"larger than {MAX_DOCUMENT_BYTES >> 20} MiB", fix=_FIX)
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    if not isinstance(document, dict):
        raise ContractError("not a JSON object", fix=_FIX)
    return document


def _refuse(constant: str) -> None:
    raise ContractError(f"holds {constant}, which is no number of JSON", fix=_FIX)


def _verification(document: dict[str, Any], source: Source) -> Verification:
    _require(document, "edgevit.verification")
    data = document["data"]
    return Verification(
        artifact_sha256=document["artifact_sha256"],
        parity=_parity(document["parity"]),
        accuracy=_accuracy(data, source) if data else None,
        checks={key: str(value) for key, value in document["checks"].items()},
        started_utc=document["started_utc"],
        source=source,
        drift=tuple(map(_drift, document.get("drift", ()))),
    )


def _drift(step: dict[str, Any]) -> ErrorBreakdown:
    numbers = ("score", "agreement", "snr_db", "cosine", "max_abs_error")
    return ErrorBreakdown(str(step["name"]), str(step["metric"]), **{name: _optional(step[name]) for name in numbers})


def _ranked_layers(document: dict[str, Any], source: Source) -> RankedLayers:
    _require(document, "edgevit.debug")
    adding = [error for error in document["layers"] if error["new"]["snr_db"] is not None]
    reference = str(document["reference"])
    layers = tuple(_worst_layer(error, reference) for error in adding[:_SHOWN_LAYERS])
    return RankedLayers(document["artifact_sha256"], layers)


def _worst_layer(error: dict[str, Any], reference: str) -> WorstLayer:
    layer, new = error["layer"], error["new"]
    return WorstLayer(
        reference=reference,
        place=str(layer["place"]),
        node=str(layer["node"]),
        operation=str(layer["operation"]),
        new_snr_db=_optional(new["snr_db"]),
        snr_db=_optional(error["so_far"]["snr_db"]),
        new_passes=_optional(new["steps"]),
    )


def _parity(document: dict[str, Any]) -> Parity:
    measured = ("max_abs_error", "max_relative_error", "snr_db", "cosine", "agreement")
    return Parity(
        executed=document["executed"] is True,
        runtime=str(document["runtime"]),
        samples=int(document["samples"]),
        reason=str(document["reason"]),
        **{name: _optional(document[name]) for name in measured},
    )


def _optional(value: Any) -> float | None:
    """A number or null; anything else raises, and the file becomes a note."""
    return None if value is None else float(value)


def _accuracy(data: dict[str, Any], source: Source) -> Accuracy:
    checkpoint, artifact = _optional(data["checkpoint"]), _optional(data["artifact"])
    return Accuracy(
        data=str(data["source"]),
        split=str(data["split"]),
        samples=int(data["samples"]),
        metric=str(data["metric"]),
        checkpoint=checkpoint,
        artifact=artifact,
        agreement=_optional(data["agreement"]),
        drop_percentage_points=None if None in (checkpoint, artifact) else 100 * (checkpoint - artifact),
        source=source,
    )


def _latency(document: dict[str, Any], source: Source) -> Latency:
    _require(document, "edgevit.profile")
    raw = RawReport.from_json(document["raw"])
    statistics = ("p50_ms", "p90_ms", "p99_ms", "min_ms", "mean_ms", "first_ms", "load_ms")
    raw_document = document["raw"]
    return Latency(
        **{name: float(document[name]) for name in statistics},
        std_ms=_optional(document["std_ms"]),
        artifact_sha256=document["artifact_sha256"],
        batch=raw.job.batch,
        images_per_s=raw.job.batch / (float(document["p50_ms"]) / 1e3),
        peak_memory_bytes=document["peak_memory_bytes"],
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
    _require(document, "edgevit.comparison")
    numbers = ("a_p50_ms", "b_p50_ms", "ratio", "low", "high", "confidence")
    texts = ("a", "b", "a_sha256", "b_sha256", "verdict")
    return Comparison(
        **{name: float(document[name]) for name in numbers},
        **{name: str(document[name]) for name in texts},
        flags=tuple(str(flag) for flag in document["flags"]),
        rounds=len(document["rounds"]),
        batch=int(document["rounds"][0]["a"]["job"].get("batch", 1)) if document["rounds"] else 1,
        source=source,
    )


def _require(document: dict[str, Any], schema: str) -> None:
    if (document.get("schema"), document.get("schema_version")) != (schema, 1):
        found = f"{document.get('schema')} {document.get('schema_version')}"
        raise ContractError(f"not {schema} 1 but {found}", fix=_FIX)


def _measured(row: Verification | Latency | Comparison | RankedLayers) -> tuple[str, ...]:
    """The hashes of the builds that a result is about."""
    return (row.a_sha256, row.b_sha256) if isinstance(row, Comparison) else (row.artifact_sha256,)


def _file(row: Verification | Latency | Comparison | RankedLayers, results: Results) -> None:
    if isinstance(row, Comparison):
        results.comparisons.append(row)
    elif isinstance(row, Latency):
        results.latencies.setdefault(row.artifact_sha256, []).append(row)
    elif isinstance(row, RankedLayers):
        known = results.worst_layers.get(row.artifact_sha256, ())
        results.worst_layers[row.artifact_sha256] = (*known, *row.layers)
    else:
        known = results.verifications.get(row.artifact_sha256)
        older, newer = (row, known) if known is not None and known.started_utc >= row.started_utc else (known, row)
        if newer.accuracy is None and older is not None:  # parity alone does not take an accuracy back
            newer = replace(newer, accuracy=older.accuracy)
        if older is not None and not newer.drift:
            newer = replace(newer, drift=older.drift)
        results.verifications[row.artifact_sha256] = newer


_READERS: dict[str, Callable[[dict[str, Any], Source], Verification | Latency | Comparison | RankedLayers]] = {
    ".verify": _verification,
    ".evaluate": _verification,
    ".profile": _latency,
    ".compare": _comparison,
    ".debug": _ranked_layers,
}
