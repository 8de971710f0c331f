"""`python -m benchmarks.coreml_mutations`: damages Core ML artifacts in every way and counts what `verify` catches.

The ways are those of `benchmarks.coreml_mutators`; the artifacts are fp32.

The hashes in the artifact's manifest are made to agree after each damage, so that only lint (the package read
statically and held to the manifest) and numerics (the interpreter in fp32 against the golden outputs) can notice.
A damage must be caught if it moves the fp32 result by more than 1e-5 relative, if it breaks the interface, or if
it corrupts a file; one that does neither is counted apart. The result is results/coreml-mutations.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import edgevit
from benchmarks.converted import single
from benchmarks.coreml_mutators import FILES, GRAPH, NotApplicableError, Subject
from edgevit import log
from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.errors import ContractError, EdgevitError
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.mil import Interpreter
from edgevit.mil.lint import Level, lint
from edgevit.mil.shapes import shape_check
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, class_logits, image_input
from edgevit.verification.checks import check_parity, measure

RESULT = Path(__file__).parent / "results" / "coreml-mutations.json"
LIMIT = 1e-5  # relative change of the fp32 result from which on a damage must be caught
_LABELS = ("ant", "bee", "cat", "dog", "eel")


class Mixed(nn.Module):
    """Ops that the tiny classifier and VAN lack: concat, attention, LayerNorm, SiLU, upsampling, slices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU6())
        self.near, self.far = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.norm = nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Linear(16, len(_LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.near(x), self.far(x)], 1)  # (1, 16, 8, 8)
        tokens = self.norm(x.flatten(2).transpose(1, 2))  # (1, 64, 16)
        weights = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).softmax(-1)
        mixed = (weights @ self.value(tokens)).transpose(1, 2).reshape(1, 16, 8, 8)
        x = nn.functional.silu(self.up(x - mixed))[:, :, 1:13, 2:14]
        return self.head(x.mean((2, 3)))


def main() -> None:
    """Damage every subject in every way, print each row, write the result; exit 1 if something was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="subjects; default: all")
    arguments = parser.parse_args()
    log.configure()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgevit-") as temporary:
        for name in arguments.only or SUBJECTS:
            artifact = SUBJECTS[name](Path(temporary))
            rows += damage_all(name, artifact, Path(temporary) / "damaged")
    result = {"schema": "edgevit.coreml_mutations", "limit": LIMIT, **summary(rows)}
    result |= {"provenance": provenance(("coremltools",)), "rows": rows}
    write_json(RESULT, result)
    print({key: value for key, value in result.items() if isinstance(value, int)})
    sys.exit(bool(result["missed"] or result["crashed"]))


def damage_all(name: str, artifact: Artifact, folder: Path) -> list[dict[str, Any]]:
    """One row per damage that applies, after a check that the sound artifact passes."""
    clean = outputs(artifact.path)
    if caught := read_statically(artifact.path) or compare(artifact, clean):
        raise SystemExit(f"{name} is not sound: {caught}")
    rows = []
    for kind, damage in [*GRAPH.items(), *FILES.items()]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(artifact.path, folder)
        subject = Subject(folder)
        try:
            damage(subject)
        except NotApplicableError:
            continue
        if kind in GRAPH:
            subject.save()
        subject.rehash()
        rows.append({"subject": name, "damage": kind, **judge(folder, clean, corrupt=kind in FILES)})
        print(f"{name:8} {kind:45} {rows[-1]['caught_by'] or '-':11} {rows[-1]['message'][:110]}", flush=True)
    return rows


def judge(folder: Path, clean: np.ndarray, *, corrupt: bool) -> dict[str, Any]:
    """What the damage does to the result, and which stage of verify notices it first.

    The interpreter runs even where the package was refused before: relative_change says what would have come
    out, null where nothing runs. crashed: it ended in a trace that no stage before it would have prevented.
    """
    caught = read_statically(folder)
    change, crash = None, ""
    try:
        actual = outputs(folder)
    except EdgevitError as error:
        caught = caught or ("interpreter", error.message)
    except Exception as error:  # a trace instead of a clear error is a defect of its own
        crash = "" if caught else f"{type(error).__name__}: {error}"
    else:
        change = _change(actual, clean)
        caught = caught or compare(load_artifact(folder), actual)
    by, message = caught or ("", crash)
    return {
        "relative_change": change,
        "must_catch": corrupt or change is None or change > LIMIT,
        "caught_by": by,
        "crashed": bool(crash),
        "message": message.replace(f"{folder}/", "")[:300],
    }


def read_statically(folder: Path) -> tuple[str, str] | None:
    """Stage and message of the first thing wrong with an artifact before it is run: hashes, package, lint."""
    try:
        artifact = load_artifact(folder)
        found = lint(artifact.path / artifact.manifest.entry, manifest=artifact.manifest)
    except EdgevitError as error:
        return "reader", error.message
    errors = [finding for finding in found if finding.level is Level.ERROR]
    return ("lint", f"{errors[0].rule}: {errors[0].message}") if errors else None


def compare(artifact: Artifact, actual: np.ndarray) -> tuple[str, str] | None:
    """Hold the interpreter's results to the golden outputs and the manifest's tolerance."""
    expected = np.concatenate([artifact.golden_level(golden, "L3") for golden in artifact.manifest.goldens])
    parity = measure(actual, expected, task=artifact.manifest.model.task, runtime="interpreter")
    try:
        check_parity(parity, artifact.manifest.tolerance, artifact.name)
    except EdgevitError as error:
        return "numerics", error.message
    return None


def outputs(folder: Path) -> np.ndarray:
    """Results of the interpreter in fp32 for all golden inputs, (N, ...). Raises what the interpreter raises."""
    artifact = load_artifact(folder)
    interpreter = Interpreter(artifact.path / artifact.manifest.entry, mode="fp32")
    name = artifact.manifest.outputs[0].name
    shapes = shape_check(interpreter.package, interpreter.function)
    results = [
        interpreter.predict(artifact.golden_input(golden.name), observe=shapes) for golden in artifact.manifest.goldens
    ]
    if any(name not in result for result in results):
        raise ContractError(f"{folder} returns no {name}")
    return np.concatenate([np.asarray(result[name], np.float32) for result in results])


def _change(damaged: np.ndarray, clean: np.ndarray) -> float:
    """Relative change of the result; 1e30 for another shape or values that are not finite."""
    if damaged.shape != clean.shape or not np.isfinite(damaged).all():
        return 1e30
    return float(np.abs(damaged - clean).max() / np.abs(clean).max())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all rows, and the damages that nothing noticed."""
    needed = [row for row in rows if row["must_catch"]]
    missed = [row for row in needed if not row["caught_by"]]
    idle = {row["damage"] for row in rows} - {row["damage"] for row in rows if row["must_catch"] or row["caught_by"]}
    return {
        "kinds": len({row["damage"] for row in rows}),
        "damages": len(rows),
        "must_catch": len(needed),
        "caught": len(needed) - len(missed),
        "missed": len(missed),
        "crashed": sum(row["crashed"] for row in rows),
        "caught_below_the_limit": sum(bool(row["caught_by"]) for row in rows if not row["must_catch"]),
        "kinds_without_effect": sorted(idle),
        "missed_rows": [f"{row['subject']}: {row['damage']}" for row in missed],
    }


def _tiny(out: Path, **options: Any) -> Artifact:
    from tests.tiny import TinyClassifier, classifier_spec, seeded

    module = seeded(TinyClassifier)
    spec = classifier_spec()
    return single(edgevit.convert(module, spec=spec, target="coreml", labels=_LABELS, out=out, options=options))


def _images(out: Path) -> Artifact:
    """The tiny classifier as an app likes it: images in, labels out."""
    return _tiny(out / "images", image_input=True, classifier=True)


def _van(out: Path) -> Artifact:
    torch.manual_seed(0)
    labels = tuple(f"class {index}" for index in range(10))
    return single(edgevit.convert("van_b0", target="coreml", num_classes=10, labels=labels, input_size=64, out=out))


def _mixed(out: Path) -> Artifact:
    torch.manual_seed(0)
    module = Mixed().eval()
    spec = ModelSpec(
        name="mixed",
        task=Task.CLASSIFY,
        tier=Tier.EDGE,
        build=lambda classes, size: Mixed(),
        inputs=image_input(32),
        outputs=class_logits(len(_LABELS)),
        preprocess=Preprocess.for_input(32),
        params=sum(parameter.numel() for parameter in module.parameters()),
        macs=0,
        paper="",
        size_multiple=4,
    )
    return single(edgevit.convert(module, spec=spec, target="coreml", labels=_LABELS, out=out))


SUBJECTS: dict[str, Callable[[Path], Artifact]] = {
    "tiny": _tiny,
    "images": _images,
    "mixed": _mixed,
    "van_b0": _van,
}

if __name__ == "__main__":
    main()
