"""Writes the tables of README and docs/."""

from __future__ import annotations

from benchmarks.tables import documents, render

for document in documents():
    text = document.read_text()
    if (made := render(text)) != text:
        document.write_text(made)
