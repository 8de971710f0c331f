"""`python -m benchmarks.conversion_matrix benchmarks/conversion.toml`: converts every row of a matrix and measures it.

Weights are seeded, with BatchNorm statistics from random images, so that nothing is trivially zero. Parity is
measured by the pipeline itself: the artifact in its own runtime against the network in its training form.
The result is results/MATRIX.json; `python -m benchmarks.tables` puts it into the documents.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

import edgevit
from benchmarks.converted import single
from edgevit import log
from edgevit.artifacts.artifact import Artifact
from edgevit.checkpoints.checkpoint import load_weights
from edgevit.checkpoints.model_source import spec_of
from edgevit.errors import EdgevitError, UsageError
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.profiling.devices.host_facts import describe_host

RESULTS = Path(__file__).parent / "results"
_KEYS = {"models", "seed", "precisions"}
_OPTIONAL = {"options": [{}], "sizes": [None]}  # converter options, one set per row; pixels of each side


def main() -> None:
    """Measure every row, print progress, write the result; exit 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models to measure; the rows of others stay")
    arguments = parser.parse_args()
    log.configure()
    matrix = read_matrix(arguments.matrix)
    path = RESULTS / f"{arguments.matrix.stem}.json"
    facts = {
        "schema": "edgevit.matrix",
        "matrix": arguments.matrix.name,
        "seed": matrix["seed"],
        "cpu": describe_host().cpu,
        "cores": os.cpu_count(),
        "provenance": provenance(("executorch", "coremltools", "ai-edge-litert")),
        "rows": [],
    }
    result = json.loads(path.read_text()) if arguments.only and path.is_file() else facts
    failed = False
    for model in arguments.only or matrix["models"]:
        rows = measure_model(model, matrix)
        failed |= any(row["error"] for row in rows)
        result["rows"] = _in_order([row for row in result["rows"] if row["model"] != model] + rows, matrix["models"])
        if arguments.only:  # what was measured by other code than the rest says so
            result["later"] = result.get("later", {}) | {model: facts["provenance"]}
        write_json(path, result)
    sys.exit(failed)


def _in_order(rows: list[dict[str, Any]], models: list[str]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: models.index(row["model"]))


def read_matrix(path: Path) -> dict[str, Any]:
    """The TOML file; an unknown key is an error."""
    matrix = _OPTIONAL | tomllib.loads(path.read_text())
    if set(matrix) != _KEYS | set(_OPTIONAL):
        raise UsageError(
            f"{path} has keys {sorted(matrix)}", fix=f"it must have {sorted(_KEYS)} and may have {sorted(_OPTIONAL)}"
        )
    return matrix


def measure_model(name: str, matrix: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per size, target, precision and set of options, one after the other, so that seconds are comparable."""
    rows = []
    for input_size in matrix["sizes"]:
        model = seeded_model(name, matrix["seed"], input_size)
        with tempfile.TemporaryDirectory() as out:
            for precision, targets in matrix["precisions"].items():
                for target, options in itertools.product(targets, matrix["options"]):
                    rows.append(_measure(model, name, target, precision, options, out))
    return rows


def seeded_model(name: str, seed: int, input_size: int | None = None) -> torch.nn.Module:
    """A network with seeded weights whose BatchNorms have seen four random images."""
    torch.manual_seed(seed)
    model = edgevit.create_model(name, input_size=input_size)
    size = spec_of(model).input_size
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, size, size))
    load_weights(model, model.state_dict())  # refuses values that are not finite
    return model.eval()


def _measure(
    model: torch.nn.Module, name: str, target: str, precision: str, options: dict[str, Any], out: str
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": name,
        "target": target,
        "precision": precision,
        "options": options,
        "error": "",
    }
    started = time.perf_counter()
    try:
        artifact = single(edgevit.convert(model, target=target, precision=precision, options=options, out=out))
    except EdgevitError as error:
        return row | {"error": str(error)}
    return row | {"total_s": round(time.perf_counter() - started, 1)} | _facts(artifact)


def _facts(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    document = manifest.to_json()
    return {
        "input_size": manifest.input_size,
        "params": manifest.model.params,
        "macs": manifest.model.macs,
        "conversion_s": manifest.provenance.conversion_s,
        "size_bytes": manifest.entry_size_bytes,
        "parity": document["parity"],
        "tolerance": document["tolerance"],
        "lowering": document["lowering"],
        "checks": document["checks"],
    }


if __name__ == "__main__":
    main()
