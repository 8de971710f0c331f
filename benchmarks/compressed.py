"""`python -m benchmarks.compressed`: what every compressed form of a file costs in accuracy, on the same images.

The float checkpoints are those of `benchmarks.int8`, in artifacts/int8/ or --checkpoints, and trained where they are
missing; pruned ones and artifacts are kept in artifacts/compressed/. Every difference to the float network comes with
a paired bootstrap interval over the test images. The result is results/compressed.json, written after every row;
rows that are there are not measured again. `python -m benchmarks.tables` puts it into the documents.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import edgevit
from benchmarks import int8
from benchmarks.converted import single
from edgevit import log
from edgevit.contract.manifest import Executed
from edgevit.data.datasets import open_dataset, targets
from edgevit.data.metrics import score
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.profiling.devices.host_facts import describe_host
from edgevit.spec import Precision

PLAN = Path(__file__).with_suffix(".toml")
RESULT = Path(__file__).parent / "results" / "compressed.json"
WORK = int8.WORK.parent / "compressed"

Row = dict[str, Any]


def main() -> None:
    """Make what is missing, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models to measure; default: all of compressed.toml")
    parser.add_argument("--targets", nargs="+", metavar="TARGET", help="targets to measure; default: all")
    parser.add_argument("--checkpoints", type=Path, default=int8.WORK, help="folder of the float checkpoints")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    arguments = parser.parse_args()
    log.configure()
    plan = tomllib.loads(PLAN.read_text())
    known = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() and not arguments.again else []
    rows = {(row["model"], row["form"], row["target"]): row for row in known}
    head = {
        "schema": "edgevit.compressed",
        "plan": plan,
        "cpu": describe_host().cpu,
        "cores": os.cpu_count(),
        "provenance": provenance(("executorch", "coremltools", "ai-edge-litert", "nncf")),
    }
    for name in arguments.only or plan["models"]:
        for key, measure in _Model(int8.read_experiments(int8.EXPERIMENTS)[name], plan, arguments.checkpoints).steps():
            if key in rows or (arguments.targets and key[2] not in ("", *arguments.targets)):
                continue
            rows[key] = measure()
            write_json(RESULT, head | {"rows": _ordered(rows, plan)})


class _Model:
    """One trained network in all its forms; what takes long is made once it is needed."""

    def __init__(self, model: int8.Experiment, plan: Row, checkpoints: Path) -> None:
        self._name, self._data, self._plan = model.model, model.data, plan
        self._weights = int8.float_checkpoint(model, checkpoints)
        self._images = open_dataset(model.data, "test")
        self._target = targets(self._images, int8.metadata_of(self._weights).preprocess)
        self._float: np.ndarray | None = None

    def steps(self) -> list[tuple[tuple[str, str, str], Callable[[], Row]]]:
        """(model, form, target) and the function that measures it: the networks first, then every artifact."""
        found: list[tuple[tuple[str, str, str], Callable[[], Row]]] = [
            ((self._name, form, ""), partial(self._network, form)) for form in ("float", "pruned")
        ]
        for target in self._plan["targets"]:
            for form in self._plan["forms"]:
                if target in form.get("targets", self._plan["targets"]):
                    key = self._name, form["name"], target
                    found.append((key, partial(self._artifact, form, target)))
        return found

    def _network(self, form: str) -> Row:
        weights = self._pruned() if form == "pruned" else self._weights
        outputs = int8.network_outputs(self._name, weights, self._images, Precision.FP32)
        return self._row(form, "", outputs) | {"training": int8.metadata_of(weights).training}

    def _artifact(self, form: Row, target: str) -> Row:
        full, artifact = (
            single(
                edgevit.convert(
                    self._name,
                    weights=self._pruned() if form.get("pruned") else self._weights,
                    target=target,
                    precision=precision,
                    options=options,
                    out=WORK / ("pruned" if form.get("pruned") else "float"),
                )
            )
            for precision, options in (
                ("fp32", {}),
                (form["precision"], {"weight_compression": form.get("weight_compression", "none")}),
            )
        )
        manifest = artifact.manifest
        return self._row(form["name"], target, int8.artifact_outputs(artifact, self._images)) | {
            "size_bytes": manifest.entry_size_bytes,
            "size_ratio": manifest.entry_size_bytes / full.manifest.entry_size_bytes,
            "parity_db": manifest.parity.snr_db if isinstance(manifest.parity, Executed) else None,
            "runtime": manifest.parity.runtime,
            "delegated": manifest.lowering.delegated,
            "nodes": manifest.lowering.nodes,
            "regions": manifest.lowering.regions,
            "checks": manifest.checks,
        }

    def _row(self, form: str, target: str, outputs: np.ndarray) -> Row:
        if self._float is None:
            self._float = int8.network_outputs(self._name, self._weights, self._images, Precision.FP32)
        return {
            "model": self._name,
            "form": form,
            "target": target,
            "data": self._data,
            "images": len(self._images),
            "scores": score(outputs, self._target),
            "drop": int8.drop(self._float, outputs, self._target),
            **int8.against(outputs, self._float, self._target),
        }

    def _pruned(self) -> Path:
        weights = WORK / f"{self._name}-pruned.pt"
        if not weights.is_file():
            edgevit.prune(
                self._name,
                weights=self._weights,
                data=self._data,
                out=weights,
                sparsity=self._plan["sparsity"],
                epochs=self._plan["prune_epochs"],
                resume=True,
            )
        return weights


def _ordered(rows: dict[tuple[str, str, str], Row], plan: Row) -> list[Row]:
    """By model, then networks before artifacts, then form and target as in the plan."""
    forms = ["float", "pruned", *(form["name"] for form in plan["forms"])]
    targets = ["", *plan["targets"]]
    order = (plan["models"].index, forms.index, targets.index)
    return [rows[key] for key in sorted(rows, key=lambda key: [at(part) for at, part in zip(order, key, strict=True)])]


if __name__ == "__main__":
    main()
