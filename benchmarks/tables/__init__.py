"""`python -m benchmarks.tables`: puts the committed results into README and docs/, between their markers.

A marker pair is `<!-- table: NAME -->` ... `<!-- /table -->`; TABLES says which function makes NAME. A test renders
every document again and compares, so a number that was typed by hand does not survive.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.tables import accuracy, catalogue, conversions, headline, speeds
from benchmarks.tables.committed import ROOT

TABLES = {
    table.__name__: table
    for table in (
        headline.headline,
        headline.limits,
        catalogue.models,
        catalogue.exit_codes,
        accuracy.recipes,
        accuracy.demo,
        accuracy.int8,
        accuracy.compressed,
        conversions.conversion,
        conversions.server_conversion,
        conversions.coreml_options,
        conversions.sizes,
        conversions.cost,
        conversions.interpreter,
        speeds.compare_runtimes,
        speeds.compare_runtimes_int8,
        speeds.operations,
        speeds.server,
    )
}
_MARKED = re.compile(r"(<!-- table: ([a-z0-9_]+) -->\n).*?(<!-- /table -->)", re.S)


def documents() -> list[Path]:
    """The committed documents: the Markdown files of the root and of docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted(path for path in (ROOT / "docs").rglob("*.md") if not _is_made(path))]


def render(text: str) -> str:
    """A document's text with every marked table made anew."""
    return _MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def tables_of(text: str) -> list[str]:
    """The names of the tables that a document shows, in order."""
    return [name for _, name, _ in _MARKED.findall(text)]


def _is_made(path: Path) -> bool:
    """Whether a page is written by the build of the documents, not committed."""
    return {"_build", "commands", "api"} & set(path.relative_to(ROOT / "docs").parts) != set()
