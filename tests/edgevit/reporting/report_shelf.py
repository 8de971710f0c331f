"""A folder as `edgevit convert`, `verify` and `profile` leave it, made of plausible numbers, for the report's tests."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import Artifact, file_entries, load_artifact
from edgevit.contract.manifest import (
    AppliedPass,
    Executed,
    Lowering,
    Manifest,
    ModelFacts,
    NotExecuted,
    Parity,
    Tolerance,
    parity_to_json,
)
from edgevit.contract.provenance import Provenance
from edgevit.contract.raw_report import AskedUsed, Delegation, DeviceInfo, Memory, RawReport, Runtime
from edgevit.infra.files import write_json
from edgevit.profiling.latency import Round, judge, save_comparison, save_profile, summarize
from edgevit.spec import Layout, Precision, Preprocess, Task, TensorSpec
from edgevit.verification.error_breakdown import StageError
from edgevit.verification.numeric_debugger import LayerError, LayerReport
from tests.fakes import make_job, make_report

EXECUTORCH, COREML, TFLITE = "van_b0-fp32-executorch", "van_b0-fp16-coreml", "van_b0-fp32-tflite"
NO_RUNTIME = "Core ML models run on Apple systems only"
HOST = DeviceInfo("Server", "Linux", "6.1", "Example CPU 9000", 8, "x86_64", 32 << 30, "3.12.3")

_LOWERING = {
    EXECUTORCH: Lowering(412, 398, 3, 0, {"aten.permute_copy": 14}, {"convolution": 96, "gelu": 16, "mul": 40}),
    COREML: Lowering(388, None, None, 2, {}, {"conv": 96, "gelu": 16}),
    TFLITE: Lowering(351, None, None, 6, {}, {"CONV_2D": 60, "DEPTHWISE_CONV_2D": 36, "TRANSPOSE": 6}),
}
_SIZE = {EXECUTORCH: 1_642_000, COREML: 826_000, TFLITE: 1_651_000}


def build_shelf(folder: Path) -> Path:
    """Three artifacts: two verified, profiled and compared, one that this machine cannot run. Returns `folder`."""
    fast, slow = write_artifact(folder, EXECUTORCH), write_artifact(folder, TFLITE)
    core = write_artifact(folder, COREML, parity=NotExecuted("coreml", NO_RUNTIME))
    write_verification(fast)
    write_verification(slow, parity=_parity("litert 2.1.0", 8.9e-7, 128.4))
    write_verification(core, parity=NotExecuted("coreml", NO_RUNTIME), accuracy=None)
    write_profile(fast, "executorch", p50_ms=21.4)
    write_profile(slow, "litert", p50_ms=24.9, flags=("load average above cores",))
    write_comparison(fast, slow)
    return folder


def write_artifact(folder: Path, name: str, **changes: Any) -> Artifact:
    """One whole artifact whose manifest has these changes."""
    path = folder / name
    path.mkdir(parents=True)
    entry = f"{name.split('-')[0]}.bin"
    with (path / entry).open("wb") as model:
        model.truncate(_SIZE[name])  # sparse: the size shows, the disk is spared
    (path / "labels.txt").write_text("tench\ngoldfish\n")
    _, precision, target = name.split("-")
    manifest = Manifest(
        name=name,
        model=ModelFacts("van_b0", Task.CLASSIFY, "edge", 2, 4_105_800, 877_800_000, "Visual Attention Network"),
        target=target,
        precision=Precision(precision),
        entry=entry,
        inputs=(TensorSpec("image", (1, 3, 224, 224), layout=Layout.NCHW),),
        outputs=(TensorSpec("logits", (1, 2)),),
        preprocess=Preprocess(256, (224, 224)),
        normalize_table=bytes(3 * 256 * 4),
        labels=("tench", "goldfish"),
        files=file_entries(path),
        goldens=(),
        tolerance=Tolerance(max_relative_error=1e-4, min_snr_db=60.0),
        parity=_parity("executorch 1.4.1", 6.1e-7, 131.2),
        lowering=_LOWERING[name],
        deploy=(AppliedPass("fold_batch_norm", 54, 3.2e-7), AppliedPass("fold_layer_scale", 16, 1.1e-7)),
        checks={"inputs": "image float32 (1, 3, 224, 224)"},
        provenance=Provenance.from_json(_PROVENANCE),
    )
    dataclasses.replace(manifest, **changes).write(path)
    return load_artifact(path)


def write_verification(
    artifact: Artifact,
    *,
    parity: Parity | None = None,
    accuracy: float | None = 0.982,
    float_network: float | None = 0.984,
    kind: str = "evaluate",
    started_utc: str = "2026-11-20T12:00:00Z",
    error_breakdown: tuple[StageError, ...] = (),
) -> Path:
    """The artifact's evaluate.json, top-1 `accuracy` against a checkpoint of 0.984, or its verify.json without."""
    parity = parity or _parity("executorch 1.4.1", 6.1e-7, 131.2)
    path = artifact.path.parent / "results" / f"{artifact.name}.{kind}.json"
    write_json(path, {
        "schema": "edgevit.verification",
        "schema_version": 2,
        "artifact": artifact.name,
        "artifact_sha256": artifact.manifest_sha256,
        "checks": {"weights": "all finite"},
        "parity": parity_to_json(parity),
        "data": None if kind == "verify" else {
            "source": "digits", "split": "test", "samples": 500, "metric": "top-1", "checkpoint": 0.984,
            "float_network": float_network,
            "artifact": accuracy, "agreement": None if accuracy is None else 0.998,
        },
        "error_breakdown": [dataclasses.asdict(stage) for stage in error_breakdown],
        "provenance": {},
        "started_utc": started_utc,
        "seconds": 1.2,
    })  # fmt: skip
    return path


def write_debug(artifact: Artifact, layers: tuple[LayerError, ...]) -> Path:
    """The artifact's debug.json with layers that were ranked already."""
    report = LayerReport(
        artifact.name,
        artifact.manifest_sha256,
        "executorch 1.4.1",
        16,
        "digits",
        True,
        layers,
        unrecorded=(),
        reference="checkpoint",
    )
    path = artifact.path.parent / "results" / f"{artifact.name}.debug.json"
    write_json(path, report.to_json())
    return path


def write_profile(artifact: Artifact, runtime: str, *, p50_ms: float, flags: tuple[str, ...] = ()) -> Path:
    """The artifact's profile.json with 60 samples around p50_ms."""
    return save_profile(
        summarize(make_run(artifact, runtime, p50_ms, flags), artifact.name), artifact.path.parent / "results"
    )


def write_comparison(a: Artifact, b: Artifact) -> Path:
    """Six rounds in which a takes about 0.86 of b's time."""
    rounds = [
        Round("a", make_run(a, "executorch", 21.4 + 0.1 * number), make_run(b, "litert", 24.9)) for number in range(6)
    ]
    return save_comparison(judge(rounds, a.name, b.name), a.path.parent / "results")


def make_run(artifact: Artifact, runtime: str, p50_ms: float, flags: tuple[str, ...] = ()) -> RawReport:
    """A raw report on a plausible server: steady samples with a tail."""
    samples_ms = [p50_ms + 0.3 * math.sin(7.0 * run) + (2.5 if run % 19 == 18 else 0.0) for run in range(60)]
    raw = make_report(make_job(artifact=artifact.name, artifact_sha256=artifact.manifest_sha256))
    return dataclasses.replace(
        raw,
        device=HOST,
        runtime=Runtime(runtime, "1.4.1"),
        accelerator=AskedUsed("cpu", "cpu"),
        threads=AskedUsed(1, 1),
        load_ns=round(p50_ms * 0.4e6),
        first_ns=round(p50_ms * 2.2e6),
        samples_ns=tuple(round(1e6 * sample) for sample in samples_ms),
        memory=Memory(100 << 20, 141 << 20),
        delegation=Delegation(398, 412, 3),
        flags=flags,
    )


def edit_json(path: Path, **changes: Any) -> None:
    """Overwrite top-level keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)


def _parity(runtime: str, error: float, snr_db: float) -> Parity:
    return Executed(runtime, 8, error * 12, error, snr_db, 1.0 - error, 1.0)


_PROVENANCE = {
    "weights": {
        "source": "checkpoint",
        "state_sha256": "1" * 64,
        "file": "van_b0.pt",
        "sha256": "2" * 64,
        "training": {
            "recipe": "digits",
            "epochs": 8,
            "top1": 0.984,
            "seconds": 96.5,
            "curve": [
                {"epoch": epoch, "loss": 2.1 * 0.6**epoch, "top1": 0.984 - 0.5 * 0.45**epoch, "seconds": 12.0}
                for epoch in range(1, 9)
            ],
        },
    },
    "tools": {"torch": "2.9.0", "executorch": "1.4.1"},
    "options": {},
    "edgevit_version": "0.1.0",
    "git_commit": None,
    "python": "3.12.3",
    "platform": "Linux x86_64",
    "created_utc": "2026-11-20T11:58:00Z",
    "conversion_s": 4.2,
}
