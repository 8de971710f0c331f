"""The report's tables, once for page and Markdown, and the CSV with one row per artifact."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgevit.reporting.model import (
    ArtifactRow,
    Comparison,
    ErrorBreakdown,
    Latency,
    ReportData,
    Source,
    Status,
    WorstLayer,
)

ABSENT = "\N{EN DASH}"
SYMBOL = {Status.AGREES: "✓", Status.REFERENCE: "✓", Status.DIFFERS: "✕"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, why it is empty, how it is set, and the anchor or file behind it."""

    text: str
    why: str = ""
    kind: str = "text"  # text, number, status or code
    link: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, column heads, rows whose first cell names the row, and what the marks in its cells stand for."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[tuple[str, str], ...] = ()


class Marks:
    """Short marks for what is too long for a cell, in the order of a table; the same text has the same mark."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def of(self, *texts: str) -> str:
        """ "[1] [2]" for two texts."""
        self._texts += [text for text in dict.fromkeys(texts) if text not in self._texts]
        return " ".join(f"[{self._texts.index(text) + 1}]" for text in texts)

    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each mark with its text."""
        return tuple((f"[{number}]", text) for number, text in enumerate(self._texts, start=1))


def summary(data: ReportData) -> Table:
    """The headline: what was built and what it is worth, one row per artifact."""
    columns = (
        "Artifact", "Target", "Precision", "Size", "Float network", "Checkpoint", "Artifact's score",
        "Drop, percentage points", "Latency p50", "Delegated", "Transposes", "Agreement",
    )  # fmt: skip
    marks = Marks()
    rows = tuple(_summary_row(row, marks) for row in data.artifacts)
    return Table("Artifacts", columns, rows, marks.notes())


def agreement(data: ReportData) -> Table:
    """How far the outputs are from the checkpoint's, next to the bounds they were held to."""
    columns = (
        "Artifact", "Ran on", "Inputs", "Max abs. error", "Rel. error", "Error bound", "SNR", "SNR bound",
        "Cosine", "Same prediction", "Labelled data", "Same prediction there", "Read from",
    )  # fmt: skip
    return Table("Agreement with the checkpoint", columns, tuple(_agreement_row(row) for row in data.artifacts))


def error_breakdown(data: ReportData) -> Table:
    """Stage by stage from the trained float network to the file: the error that each stage adds to the outputs."""
    columns = ("Artifact", "Stage", "Score", "Same prediction", "SNR", "Cosine", "Max abs. error")
    rows = [_stage_row(row, one, first=i == 0) for row in data.artifacts for i, one in enumerate(row.error_breakdown)]
    return Table("Where accuracy went, each stage against the one before", columns, tuple(rows))


def worst_layers(data: ReportData) -> Table:
    """Layers that differ from the checkpoint's or the float network's, where `debug` was run."""
    columns = ("Artifact", "Against", "Layer", "Operation", "Local SNR", "Accumulated SNR", "LSB mismatch")
    rows = [_layer_row(row, layer) for row in data.artifacts for layer in row.worst_layers]
    return Table("Layers that add most error", columns, tuple(rows))


def latency(data: ReportData) -> Table:
    """Every profile run: one row per artifact and run; artifacts without one give the reason."""
    columns = (
        "Artifact", "Device", "Runtime", "On", "Threads", "Batch", "Images/s", "p50", "p90", "p99", "First", "Load",
        "Model memory", "Runs", "Flags", "Read from",
    )  # fmt: skip
    marks = Marks()
    rows = [_latency_row(row, run, marks) for row in data.artifacts for run in row.latencies or (None,)]
    return Table("Latency of one inference", columns, tuple(rows), marks.notes())


def comparisons(data: ReportData) -> Table:
    """Pairs that were timed against each other in one session."""
    columns = ("A and B", "A p50", "B p50", "A / B", "Interval", "Verdict", "Flags", "Read from")
    marks = Marks()
    rows = tuple(_comparison_row(pair, marks) for pair in data.comparisons)
    return Table("Head to head", columns, rows, marks.notes())


def all_tables(data: ReportData) -> tuple[Table, ...]:
    """The tables in reading order, without empty ones."""
    tables = (summary, agreement, error_breakdown, worst_layers, latency, comparisons)
    return tuple(table for table in (make(data) for make in tables) if table.rows)


def markdown(data: ReportData) -> str:
    """The tables as GitHub-flavoured Markdown for a pull request."""
    lines = [f"# {_md(data.title)}", "", _md(data.verdict), ""]
    for table in all_tables(data):
        lines += [f"## {table.caption}", ""]
        lines.append("| " + " | ".join(table.columns) + " |")
        lines.append("|" + "|".join(_ruler(cell) for cell in table.rows[0]) + "|")
        lines += ["| " + " | ".join(_md_cell(cell) for cell in row) + " |" for row in table.rows]
        lines.append("")
        lines += [f"- {_md(mark)} {_md(text)}" for mark, text in table.notes] + [""] * bool(table.notes)
    reasons = [f"- {_md(row.name)}: not executed, {_md(row.agreement.reason)}" for row in unexecuted(data)]
    notes = [f"- {note.kind}: {_md(note.subject)}: {_md(note.message)}" for note in data.notes]
    if reasons or notes:
        lines += ["## Notes", "", *reasons, *notes, ""]
    lines += ["## Next", "", "```sh", *(step.command for step in data.next_commands), "```", ""]
    return "\n".join(lines)


def csv_text(data: ReportData) -> str:
    """One row per artifact (its first profile run), units in the column names, empty where not measured."""
    rows = [_csv_row(row) for row in data.artifacts]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_safe(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def unexecuted(data: ReportData) -> list[ArtifactRow]:
    """The artifacts that no runtime on the verifying machine could run."""
    return [row for row in data.artifacts if row.agreement.status is Status.NOT_EXECUTED]


def profile_runs(rows: Iterable[ArtifactRow]) -> list[tuple[ArtifactRow, Latency]]:
    """Every profile run with its artifact, in table order."""
    return [(row, run) for row in rows for run in row.latencies]


def device_name(run: Latency) -> str:
    """ "AMD EPYC 7763, linux 6.1": what a reader knows the machine by."""
    facts = run.device
    system = " ".join(str(facts[key]) for key in ("os", "os_version") if facts.get(key))
    return ", ".join(part for part in (facts.get("cpu") or facts["name"], system) if part)


def size(count: int | None) -> str:
    """Bytes in decimal units, as app stores and file managers state them."""
    if count is None:
        return ABSENT
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def milliseconds(value: float | None) -> str:
    """Three significant digits, never an exponent."""
    if value is None:
        return ABSENT
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals: one image of 10 000 shows."""
    return ABSENT if value is None else f"{100 * value:.2f} %"


def _summary_row(row: ArtifactRow, marks: Marks) -> tuple[Cell, ...]:
    found, run = row.accuracy, row.latencies[0] if row.latencies else None
    no_data = "edgevit evaluate was not run on labelled data"
    no_float = (
        "the float network was not scored: run edgevit evaluate with the artifact's checkpoint" if found else no_data
    )
    metric = f" {found.metric}" if found else ""
    return (
        Cell(row.name, kind="code", link=f"#artifact-{row.folder}"),
        Cell(row.target),
        Cell(row.precision),
        _number(row.size_bytes, size, ""),
        _number(found and found.float_network, percent, no_float),
        _number(found and found.checkpoint, lambda v: percent(v) + metric, no_data),
        _number(found and found.artifact, percent, _why_unmeasured(row, no_data)),
        _number(found and found.drop_percentage_points, lambda v: f"{v:+.2f}", _why_unmeasured(row, no_float)),
        _number(run and run.p50_ms, milliseconds, _why_no_latency(row)),
        _delegated(row.lowering),
        _number(row.lowering["transposes"], str, "the target's compiler does not count them"),
        _status(row, marks),
    )


def _agreement_row(row: ArtifactRow) -> tuple[Cell, ...]:
    found, data = row.agreement, row.accuracy
    why = _why_unmeasured(row, "not recorded")
    exact = "the outputs are bit-exact" if found.max_abs_error == 0 else why
    labelled = f"{data.data} {data.split}, {data.samples} samples" if data else ""
    return (
        Cell(row.name, kind="code"),
        _text("" if found.status is Status.NOT_EXECUTED else found.runtime, why),
        _number(found.samples or None, str, why),
        _number(found.max_abs_error, _exponent, why),
        _number(found.max_relative_error, _exponent, why),
        _number(row.tolerance["max_relative_error"], lambda v: f"≤ {_exponent(v)}", "the manifest states no bound"),
        _number(found.snr_db, lambda v: f"{v:.1f} dB", exact),
        _number(row.tolerance["min_snr_db"], lambda v: f"≥ {v:g} dB", "the manifest states no bound"),
        _number(found.cosine, lambda v: f"{v:.6f}", why),
        _number(found.agreement, percent, why),
        _text(labelled, "edgevit evaluate was not run on labelled data"),
        _number(data and data.agreement, percent, _why_unmeasured(row, "no labelled data was given")),
        _source(found.source),
    )


def _stage_row(row: ArtifactRow, step: ErrorBreakdown, *, first: bool) -> tuple[Cell, ...]:
    equal = "the first step" if first else "the outputs are bit-exact"
    return (
        Cell(row.name, kind="code"),
        Cell(step.name),
        _number(step.score, lambda v: f"{step.metric} {percent(v)}", "no labelled data was given"),
        _number(step.agreement, percent, "the first step"),
        _number(step.snr_db, lambda v: f"{v:.1f} dB", equal),
        _number(step.cosine, lambda v: f"{v:.6f}", "the first step"),
        _number(step.max_abs_error, _exponent, "the first step"),
    )


def _layer_row(row: ArtifactRow, layer: WorstLayer) -> tuple[Cell, ...]:
    return (
        Cell(row.name, kind="code"),
        Cell(layer.reference),
        Cell(f"{layer.place} {layer.node}".strip(), kind="code"),
        Cell(layer.operation),
        _number(layer.local_snr_db, lambda v: f"{v:.1f} dB", "no local error"),
        _number(layer.accumulated_snr_db, lambda v: f"{v:.1f} dB", "bit-exact"),
        _number(layer.lsb_mismatch, percent, "not quantized"),
    )


def _latency_row(row: ArtifactRow, run: Latency | None, marks: Marks) -> tuple[Cell, ...]:
    name = Cell(row.name, kind="code")
    if run is None:
        why = _why_no_latency(row)
        return (name, *(Cell(ABSENT, why, "number" if 4 <= column <= 13 else "text") for column in range(1, 16)))
    unsaid = "the runtime does not say"
    return (
        name,
        Cell(device_name(run)),
        Cell(run.runtime),
        _text(run.accelerator or "", unsaid),
        _number(run.threads, str, unsaid),
        _number(run.batch, str, ""),
        _number(run.images_per_s, lambda v: f"{v:.1f}", ""),
        *(_number(value, milliseconds, "") for value in (run.p50_ms, run.p90_ms, run.p99_ms)),
        _number(run.first_ms, milliseconds, ""),
        _number(run.load_ms, milliseconds, ""),
        _number(run.peak_memory_bytes, size, "the device does not tell a process its memory"),
        _number(len(run.samples_ns), str, ""),
        _flags(run.flags, marks),
        _source(run.source),
    )


def _comparison_row(pair: Comparison, marks: Marks) -> tuple[Cell, ...]:
    return (
        Cell(f"{pair.a} and {pair.b}" + (f", batch {pair.batch}" if pair.batch > 1 else ""), kind="code"),
        _number(pair.a_p50_ms, milliseconds, ""),
        _number(pair.b_p50_ms, milliseconds, ""),
        _number(pair.ratio, lambda v: f"{v:.3f}", ""),
        Cell(f"{pair.low:.3f} to {pair.high:.3f} ({pair.confidence:.0%})", kind="number"),
        Cell(pair.verdict),
        _flags(pair.flags, marks),
        _source(pair.source),
    )


def _number(value: Any, show: Any, why: str) -> Cell:
    return Cell(ABSENT, why, "number") if value is None else Cell(show(value), kind="number")


def _text(value: str, why: str) -> Cell:
    return Cell(value) if value else Cell(ABSENT, why)


def _source(source: Source | None) -> Cell:
    return Cell(source.file, f"sha256 {source.sha256}", "code") if source else Cell(ABSENT, "no result for this build")


def _flags(flags: tuple[str, ...], marks: Marks) -> Cell:
    """Marks for the reasons to doubt a row; they stand below the table."""
    return Cell(marks.of(*flags), "; ".join(flags)) if flags else Cell("none")


def _status(row: ArtifactRow, marks: Marks) -> Cell:
    found = row.agreement
    words = "not executed here" if found.status is Status.NOT_EXECUTED else found.status.value
    parts = (SYMBOL.get(found.status, ""), words, marks.of(found.reason) if found.reason else "")
    return Cell(" ".join(filter(None, parts)), found.reason, "status", status=found.status.name.lower())


def _delegated(lowering: dict[str, Any]) -> Cell:
    if lowering["delegated"] is None:
        return Cell(ABSENT, "this target has no delegates at build time", "number")
    return Cell(f"{lowering['delegated']} of {lowering['nodes']}", kind="number")


def _why_unmeasured(row: ArtifactRow, otherwise: str) -> str:
    """Why a number of the artifact's own outputs is absent."""
    if row.agreement.status is Status.NOT_EXECUTED:
        return f"not executed: {row.agreement.reason}"
    return "not verified yet" if row.agreement.status is Status.NOT_VERIFIED else otherwise


def _why_no_latency(row: ArtifactRow) -> str:
    if row.agreement.status is Status.REFERENCE:
        return "its own runtime is not on this machine"
    return _why_unmeasured(row, "not profiled yet")


def _exponent(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _ruler(cell: Cell) -> str:
    return "---:" if cell.kind == "number" else "---"


def _md(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\`*[]|~" else char for char in escaped)


def _md_cell(cell: Cell) -> str:
    return _md(cell.text)


def _csv_row(row: ArtifactRow) -> dict[str, Any]:
    found, data = row.agreement, row.accuracy
    run = row.latencies[0] if row.latencies else None
    timing = {
        f"{name}_ms": getattr(run, f"{name}_ms", None)
        for name in ("p50", "p90", "p99", "min", "mean", "std", "first", "load")
    }
    return {
        "artifact": row.name,
        "manifest_sha256": row.manifest_sha256,
        "model": row.model["name"],
        "target": row.target,
        "precision": row.precision,
        "size_bytes": row.size_bytes,
        "params": row.model["params"],
        "macs": row.model["macs"],
        "status": found.status.value,
        "reason": found.reason,
        "runtime": found.runtime,
        "parity_samples": found.samples if found.status is not Status.NOT_EXECUTED else None,
        "max_abs_error": found.max_abs_error,
        "max_relative_error": found.max_relative_error,
        "snr_db": found.snr_db,
        "cosine": found.cosine,
        "agreement_fraction": found.agreement,
        "metric": data and data.metric,
        "float_network_fraction": data and data.float_network,
        "checkpoint_fraction": data and data.checkpoint,
        "artifact_fraction": data and data.artifact,
        "drop_percentage_points": data and data.drop_percentage_points,
        "data_samples": data and data.samples,
        "batch": run and run.batch,
        "images_per_s": run and run.images_per_s,
        **timing,
        "model_memory_bytes": run and run.peak_memory_bytes,
        "runs": run and len(run.samples_ns),
        "delegated_nodes": row.lowering["delegated"],
        "nodes": row.lowering["nodes"],
        "transposes": row.lowering["transposes"],
        "verified_in": found.source and found.source.file,
        "profiled_in": run and run.source.file,
    }


def _csv_safe(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe, which it hides."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
