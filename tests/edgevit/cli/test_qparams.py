"""`edgevit qparams` from checkpoint to table: equal, not equal, and nothing to show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgevit
from edgevit.checkpoints.checkpoint import save_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.errors import ParityError
from edgevit.quantization.qparams import QParamsTable, QuantizedWeight
from edgevit.quantization.quantized_model import Int8Network
from tests.edgevit.cli.test_main import fails, run
from tests.tiny import CLASSES, SIZE, TinyResidual, int8_network, residual_spec, seeded

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

MODEL = f"{Path(__file__).parents[2] / 'tiny.py'}:TinyResidual"


def _checkpoint(path: Path, network: Int8Network) -> Path:
    metadata = CheckpointMetadata(
        model="tiny_residual",
        num_classes=CLASSES,
        input_size=SIZE,
        labels=tuple("abcde"),
        preprocess=residual_spec().preprocess,
        edgevit_version=edgevit.__version__,
        quantization={"method": "ptq"},
    )
    save_checkpoint(path, seeded(TinyResidual), metadata, network.checkpoint_part())
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An int8 checkpoint, and the artifact that the whole line makes of it."""
    folder = tmp_path_factory.mktemp("qparams")
    checkpoint = _checkpoint(folder / "int8.pt", int8_network())
    return checkpoint, edgevit.convert(MODEL, target="tflite", weights=checkpoint, precision="int8", out=folder)


def test_artifact_and_checkpoint_have_the_same_scales(capsys, made):
    checkpoint, artifact = made
    code, out, err = run(capsys, "qparams", artifact.path, "--weights", checkpoint, "--model", MODEL)
    assert code == 0, err
    header, *rows, summary = out.splitlines()
    assert header.split() == ["layer", "weight", "scales", "reads", "writes"]
    assert [row.split()[0] for row in rows] == list(int8_network().table.weights)
    assert rows[0].split()[1] == "8x3x3x3"
    assert "@ -128" in rows[0]
    assert summary.startswith("5 of 5 weights and ")
    assert summary == artifact.manifest.checks["qparams"]


def test_verify_shows_what_the_file_computes_in_int8(made):
    _, artifact = made
    shown = edgevit.verify(artifact).checks["qparams"]
    assert shown.startswith("5 of 5 convolutions and linear layers in int8, 2 averages and ")
    assert artifact.manifest.checks["qparams"].endswith(shown)


def test_other_scales_are_named_and_fail(capsys, made, tmp_path):
    _, artifact = made
    network = int8_network()
    weights = dict(network.table.weights)
    weights["linear"] = QuantizedWeight(weights["linear"].int_repr, weights["linear"].scales * 2)
    other = dataclasses.replace(network, table=QParamsTable(network.table.activations, weights))
    checkpoint = _checkpoint(tmp_path / "other.pt", other)
    fails(
        *(capsys, "qparams", artifact.path, "--weights", checkpoint, "--model", MODEL),
        code=5,
        says=["4 of 5 weights", "no weight is that of linear (5, 6)"],
    )
    with pytest.raises(ParityError, match=r"4 of 5 weights"):
        edgevit.qparams(artifact, weights=checkpoint, model=MODEL)


def test_json_has_every_scale_exactly(capsys, made):
    _, artifact = made
    code, out, _ = run(capsys, "qparams", artifact.path, "--json")
    document = json.loads(out)
    table = int8_network().table
    assert code == 0
    assert document["equal"] is None
    scales = [np.array(layer["scales"], np.float32) for layer in document["layers"]]
    assert all(
        np.array_equal(found, weight.scales) for found, weight in zip(scales, table.weights.values(), strict=True)
    )
    found = {(qparams["scale"], qparams["zero_point"]) for qparams in document["activations"].values()}
    assert found == {(qparams.scale, qparams.zero_point) for qparams in table.activations.values()}


def test_artifact_or_checkpoint_without_int8_is_refused(capsys, made, classifier_artifact, tmp_path):
    _, artifact = made
    fails(capsys, "qparams", classifier_artifact.path, code=2, says="holds no quantization parameters")
    torch.save(seeded(TinyResidual).state_dict(), tmp_path / "float.pt")
    fails(
        *(capsys, "qparams", artifact.path, "--weights", tmp_path / "float.pt", "--model", MODEL),
        code=2,
        says="holds no int8 scales",
    )
