"""The report's figures as plotly JSON. Colours and fonts are the page's: report.js fills them in for light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgevit.data.metrics import recorded_scores
from edgevit.reporting.model import ArtifactRow, Latency, ReportData, Training
from edgevit.reporting.tables import milliseconds, profile_runs, size

_ROW_PX = 46
_FRAME_PX = 70


@dataclass(frozen=True, slots=True)
class Figure:
    """An id for the page, a title and a sentence for those who cannot see it, and what Plotly.newPlot takes.

    trace["meta"] is the index of the trace's colour in the page's palette: an artifact has one in all figures,
    what is no artifact has None.
    span is the figure's share of a row, in quarters.
    """

    name: str
    title: str
    reading: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    span: int = 1


def figures(data: ReportData) -> list[Figure]:
    """The figures that have something to show, in reading order."""
    made = [latency_samples(data), *_times(data), sizes(data), ratios(data), *training(data)]
    return [figure for figure in made if figure is not None]


def latency_samples(data: ReportData) -> Figure | None:
    """Every warm run as a point, under its box: what a percentile hides."""
    runs = profile_runs(data.artifacts)
    if not runs:
        return None
    labels = _run_labels(runs)
    traces = [
        {
            "type": "box", "orientation": "h", "name": label, "meta": data.artifacts.index(row),
            "x": [sample / 1e6 for sample in run.samples_ns], "y": [label] * len(run.samples_ns),
            "boxpoints": "all", "jitter": 0.7, "pointpos": 0, "showlegend": False,
            "hoveron": "points", "hovertemplate": "%{x:.3f} ms<extra></extra>",
            "marker": {"size": 4, "opacity": 0.45}, "line": {"width": 1.5},
        }
        for label, (row, run) in zip(labels, runs, strict=True)
    ]  # fmt: skip
    reading = _reading(labels, [f"p50 {milliseconds(run.p50_ms)}, p99 {milliseconds(run.p99_ms)}" for _, run in runs])
    layout = _layout(len(runs) + 1, xaxis={"ticksuffix": " ms"})
    return Figure("latency", "Every warm inference, ms", reading, traces, layout, span=4)


def sizes(data: ReportData) -> Figure:
    """Bytes of the model files."""
    rows = data.artifacts
    megabytes = [row.size_bytes / 1e6 for row in rows]
    texts = [size(row.size_bytes) for row in rows]
    return _bars("size", "Model file, MB", _labels(rows), range(len(rows)), megabytes, texts)


def ratios(data: ReportData) -> Figure | None:
    """Head-to-head ratios with their intervals; 1 is a draw."""
    pairs = data.comparisons
    if not pairs:
        return None
    labels = [f"{html.escape(pair.a)}<br>over {html.escape(pair.b)}" for pair in pairs]
    trace = {
        "type": "scatter", "mode": "markers", "meta": None, "y": labels, "x": [pair.ratio for pair in pairs],
        "error_x": {
            "type": "data", "symmetric": False,
            "array": [pair.high - pair.ratio for pair in pairs],
            "arrayminus": [pair.ratio - pair.low for pair in pairs],
        },
        "marker": {"size": 10}, "hovertemplate": "%{x:.3f}<extra></extra>", "showlegend": False,
    }  # fmt: skip
    layout = _layout(len(pairs) + 1, xaxis={})
    layout["shapes"] = [{"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot"}}]
    reading = _reading(labels, [f"{pair.ratio:.3f} ({pair.low:.3f} to {pair.high:.3f})" for pair in pairs])
    title = "Head to head: time of A over time of B; left of 1, A is faster"
    return Figure("ratio", title, reading, [trace], layout, span=4)


def training(data: ReportData) -> list[Figure]:
    """Loss and score by epoch, once per checkpoint that recorded them; checkpoints judged alike share a figure."""
    runs = list({row.training.sha256: row.training for row in data.artifacts if row.training}.values())
    losses = [[(point["epoch"], point.get("loss")) for point in run.curve] for run in runs]
    made = [_curves("loss", "Training loss by epoch", runs, losses)]
    scores = [[(point["epoch"], recorded_scores(point)) for point in run.curve] for run in runs]
    judged = dict.fromkeys(next(iter(curve[-1][1])) for curve in scores if curve and curve[-1][1])
    for metric in judged:
        shares = [[(epoch, _percent(kept.get(metric))) for epoch, kept in curve] for curve in scores]
        made.append(_curves(metric.lower(), f"Validation {metric} by epoch, %", runs, shares))
    return [figure for figure in made if figure is not None]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _curves(
    name: str, title: str, runs: Sequence[Training], curves: Sequence[Sequence[tuple[int, float | None]]]
) -> Figure | None:
    """Values by epoch, a line per run that has any."""
    traces: list[dict[str, Any]] = []
    for index, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        points = [(epoch, value) for epoch, value in curve if value is not None]
        if points:
            traces.append({
                "type": "scatter", "mode": "lines+markers", "name": html.escape(run.file),
                "meta": index if len(runs) > 1 else None, "showlegend": False,
                "x": [epoch for epoch, _ in points], "y": [value for _, value in points],
                "marker": {"size": 5}, "hovertemplate": "epoch %{x}: %{y:.4g}<extra></extra>",
            })  # fmt: skip
    if not traces:
        return None
    layout = _layout(5, yaxis={"rangemode": "tozero"}, xaxis={"title": {"text": "epoch"}})
    ends = [f"{trace['y'][-1]:.4g} after {len(trace['y'])} epochs" for trace in traces]
    reading = _reading([trace["name"] for trace in traces], ends)
    return Figure(f"training-{name}", title, reading, traces, layout, span=2)


def _times(data: ReportData) -> list[Figure]:
    """Load, first and warm inference side by side: each on its own scale, they differ by orders of magnitude."""
    runs = profile_runs(data.artifacts)
    if not runs:
        return []
    labels = _run_labels(runs)
    colours = [data.artifacts.index(row) for row, _ in runs]
    fields = (("load_ms", "Load, ms"), ("first_ms", "First inference, ms"), ("p50_ms", "Warm inference p50, ms"))
    made = [
        _bars(field, title, labels, colours, values, [milliseconds(value) for value in values])
        for field, title in fields
        for values in [[getattr(run, field) for _, run in runs]]
    ]
    if any(run.batch > 1 for _, run in runs):
        rates = [run.images_per_s for _, run in runs]
        made.append(_bars("rate", "Images per second", labels, colours, rates, [f"{rate:.1f}" for rate in rates]))
    return made


def _bars(
    name: str,
    title: str,
    labels: Sequence[str],
    colours: Sequence[int],
    values: Sequence[float],
    texts: Sequence[str],
) -> Figure:
    traces = [
        {
            "type": "bar", "orientation": "h", "meta": colour, "y": [label], "x": [value], "text": [text],
            "textposition": "auto", "cliponaxis": False, "width": 0.6, "showlegend": False,
            "hovertemplate": f"{text}<extra></extra>",
        }
        for label, colour, value, text in zip(labels, colours, values, texts, strict=True)
    ]  # fmt: skip
    return Figure(name, title, _reading(labels, texts), traces, _layout(len(labels), xaxis={"rangemode": "tozero"}))


def _run_labels(runs: Sequence[tuple[ArtifactRow, Latency]]) -> list[str]:
    """Axis labels of profile runs, with the batch where there is more than one image in it."""
    return _labels([row for row, _ in runs], [f"<br>batch {run.batch}" if run.batch > 1 else "" for _, run in runs])


def _labels(rows: Sequence[ArtifactRow], more: Sequence[str] | None = None) -> list[str]:
    """Short axis labels: target and precision where they distinguish the rows, else the names; made unique.

    more: what to add to each.
    """
    more = more or [""] * len(rows)
    short = [f"{html.escape(row.target)}<br>{row.precision}{extra}" for row, extra in zip(rows, more, strict=True)]
    if len(set(short)) == len(short):
        return short
    names = [f"{html.escape(row.folder)}{extra}" for row, extra in zip(rows, more, strict=True)]
    return [
        f"{name}<br>run {names[:place].count(name) + 1}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _reading(labels: Iterable[str], texts: Iterable[str]) -> str:
    pairs = zip(labels, texts, strict=True)
    return "; ".join(f"{html.unescape(label).replace('<br>', ' ')}: {text}" for label, text in pairs)


def _layout(rows: int, xaxis: dict[str, Any], yaxis: dict[str, Any] | None = None) -> dict[str, Any]:
    """Frame of a figure with `rows` rows; categories run from top to bottom as in the tables."""
    vertical = yaxis or {"autorange": "reversed", "type": "category"}
    return {
        "height": rows * _ROW_PX + _FRAME_PX,
        "margin": {"l": 8, "r": 24, "t": 8, "b": 8},
        "xaxis": {"automargin": True, **xaxis},
        "yaxis": {"automargin": True, **vertical},
        "dragmode": False,
    }
