"""`python -m benchmarks.conversion_cost`: seconds and peak memory of `edgevit convert`, by model and target.

Each conversion is the command that users type, in a process of its own, without the cache: reading the weights, export,
conversion, execution and comparison are all in. Memory is what the command and its workers hold together, resident,
looked at ten times a second; pages that they share count once for each. The result is results/cost.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.conversion_matrix import seeded_model
from edgevit import log
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.log import stage
from edgevit.models import get_spec
from edgevit.profiling.devices.host_facts import describe_host, load_average

PLAN = Path(__file__).with_name("cost.toml")
RESULT = Path(__file__).parent / "results" / "cost.json"
_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """One command: wall time, the most memory that its processes held together, and its last words if it failed."""

    seconds: float
    peak_bytes: int
    error: str = ""


def main() -> None:
    """Convert every model for every target, print progress, write the result; exit 1 if a conversion failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models to measure; the rows of others stay")
    arguments = parser.parse_args()
    log.configure()
    plan = tomllib.loads(PLAN.read_text())
    rows = json.loads(RESULT.read_text())["rows"] if arguments.only and RESULT.is_file() else []
    for name in arguments.only or plan["models"]:
        rows = [row for row in rows if row["model"] != name] + measure_model(name, plan["targets"], plan["seed"])
        document: dict[str, Any] = {
            "schema": "edgevit.cost",
            "cpu": describe_host().cpu,
            "cores": os.cpu_count(),
            "provenance": provenance(("executorch", "coremltools", "ai-edge-litert", "onnxruntime")),
            "rows": sorted(rows, key=lambda row: plan["models"].index(row["model"])),
        }
        write_json(RESULT, document | {"exponents": exponents(document["rows"])})
    sys.exit(any(row["error"] for row in rows))


def measure_model(name: str, targets: list[str], seed: int) -> list[dict[str, Any]]:
    """One row per target, one conversion after the other."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgevit-cost-") as folder:
        weights = Path(folder, f"{name}.pt")
        torch.save(seeded_model(name, seed).state_dict(), weights)
        for target in targets:
            with stage("cost", model=name, target=target) as running:
                load = load_average()
                convert = [
                    "convert",
                    name,
                    "--weights",
                    str(weights),
                    "--target",
                    target,
                    "--no-cache",
                    "--out",
                    folder,
                ]
                cost = run_command([sys.executable, "-W", "ignore", "-m", "edgevit", *convert])
                running.result = cost.error or f"{cost.seconds:.0f} s, {cost.peak_bytes / 2**30:.1f} GiB"
            row = {"model": name, "target": target, "params": get_spec(name).params, "load_average": load}
            rows.append(row | {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes, "error": cost.error})
    return rows


def run_command(command: list[str]) -> Cost:
    """Run a command to its end and watch the memory of its processes."""
    peak, started = 0, time.perf_counter()
    with tempfile.TemporaryFile() as words, subprocess.Popen(command, stdout=words, stderr=words) as process:
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(_INTERVAL_S)
        seconds = time.perf_counter() - started
        words.seek(0)
        last = words.read().decode(errors="replace").strip().splitlines()[-1:]
    return Cost(round(seconds, 1), peak, "" if process.returncode == 0 else " ".join(last) or "no words")


def resident_bytes(pid: int) -> int:
    """What a process and all that it started hold in memory now; 0 once it is gone."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def exponents(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By target, for seconds and bytes: e where cost grows as parameters to the power of e, smallest to largest model.

    1 is linear growth; below it, large models cost less for each parameter than small ones.
    """
    found = {}
    for target, group in itertools.groupby(sorted(rows, key=lambda row: row["target"]), lambda row: row["target"]):
        done = sorted((row for row in group if not row["error"]), key=lambda row: row["params"])
        if len(done) > 1:
            first, last = done[0], done[-1]
            growth = math.log(last["params"] / first["params"])
            found[target] = {
                key: round(math.log(last[key] / first[key]) / growth, 2) for key in ("seconds", "peak_bytes")
            }
    return found


if __name__ == "__main__":
    main()
