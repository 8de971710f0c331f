"""Writes README's tables."""

from __future__ import annotations

from benchmarks.tables import render
from benchmarks.tables.committed import ROOT

readme = ROOT / "README.md"
readme.write_text(render(readme.read_text()))
