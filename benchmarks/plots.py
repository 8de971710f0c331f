"""`python -m benchmarks.plots`: draws the comparison as an SVG, from the committed result."""

from __future__ import annotations

import html
import json
from typing import Any

from benchmarks.tables.committed import RESULTS

PLOT = RESULTS / "compare-runtimes.svg"
_WIDTH, _LABELS, _VALUES = 760, 190, 70  # pixels: all, the names on the left, the numbers on the right
_ROW, _GAP, _TITLE = 20, 26, 26
_OURS, _BASELINE, _INK, _MUTED = "#16808c", "#b9c2c5", "#1b2327", "#566269"


def draw(result: dict[str, Any]) -> str:
    """Median milliseconds as bars, a panel per model, each on its own scale; whiskers span the rounds' medians."""
    parts: list[str] = []
    top = 8
    for model in result["models"]:
        panel, top = _panel(model, top)
        parts += panel
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    ground = f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([f'<svg {frame} {style} role="img">', ground, *parts, "</svg>"]) + "\n"


def _panel(model: dict[str, Any], top: int) -> tuple[list[str], int]:
    """The rows of one model from `top` on, and where the next panel begins."""
    rows = model["candidates"]
    timed = [row for row in rows if not row["error"] and not row["wrong"]]
    longest = max((max(row["rounds_ms"]) for row in timed), default=1.0)
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    parts = [_text(0, top + 14, f"{model['model']}, milliseconds", weight="600")]
    for index, row in enumerate(sorted(rows, key=lambda row: row["median_ms"] if row in timed else float("inf"))):
        y = top + _TITLE + index * _ROW
        parts.append(_text(_LABELS - 8, y + 13, row["title"], anchor="end"))
        if row not in timed:
            parts.append(_text(_LABELS, y + 13, "failed" if row["error"] else "wrong output", colour=_MUTED))
            continue
        parts += _bar(row, y, scale)
    return parts, top + _TITLE + len(rows) * _ROW + _GAP


def _bar(row: dict[str, Any], y: int, scale: float) -> list[str]:
    colour = _OURS if row["candidate"].startswith("edgevit_") else _BASELINE
    end, low, high = (_LABELS + scale * ms for ms in (row["median_ms"], min(row["rounds_ms"]), max(row["rounds_ms"])))
    width = end - _LABELS
    return [
        f'<rect x="{_LABELS}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {y + _ROW / 2:g}H{high:.1f}" stroke="{_INK}" stroke-width="1.5"/>',
        _text(max(end, high) + 6, y + 13, f"{row['median_ms']:.2f}"),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", colour: str = _INK) -> str:
    place = f'x="{x:.1f}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f"<text {place}>{html.escape(text)}</text>"


def main() -> None:
    """Draw the committed result."""
    PLOT.write_text(draw(json.loads((RESULTS / "compare-runtimes.json").read_text())))


if __name__ == "__main__":
    main()
