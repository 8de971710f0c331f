"""The committed result files, and the words that several tables have for what is in them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def committed(name: str) -> dict[str, Any]:
    """What results/NAME.json holds."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def tools(versions: dict[str, str | None]) -> str:
    """ "torch 2.13.0, numpy 2.3.5": what was measured with."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version and name != "edgevit")


def unmeasured(benchmark: str) -> str:
    """The models of a benchmark that its result has no rows of yet."""
    measured = {row["model"] for row in committed(benchmark)["rows"]}
    models = tomllib.loads((ROOT / "benchmarks" / f"{benchmark}.toml").read_text())["models"]
    left = [name for name in models if name not in measured]
    return f" Not measured yet: {', '.join(left)}." if left else ""


def interval(row: dict[str, Any]) -> str:
    """ "0.511 [0.486, 0.541]": a ratio and its 95 % interval, or a dash."""
    return f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if "ratio" in row else "–"
