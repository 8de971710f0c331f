"""Fp16, int8 weights and pruning in three runtimes, by the functions and commands that a user has."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import edgevit
from edgevit.checkpoints.checkpoint import read_checkpoint, save_checkpoint
from edgevit.data.synthetic_images import sample_images
from edgevit.errors import ParityError, QuantizationError, UsageError
from tests.edgevit.cli.test_main import fails, run
from tests.edgevit.user_folder import write_images, write_network
from tests.tiny import TinyClassifier, TinyWide, classifier_spec, seeded

LABELS = ("even", "odd")
TARGETS = ("executorch", "coreml", "tflite")
ROUNDED_WEIGHTS = {"weight_compression": "int8"}
ROUNDED = 5  # weights of TinyWide with 2049 values or more that are dense


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A folder with net.py, a float checkpoint and labelled images."""

    folder = tmp_path_factory.mktemp("compressed")
    write_network(folder, TinyWide, LABELS)
    write_images(folder, LABELS, train=48, test=24)
    return folder


@pytest.fixture(scope="module")
def artifacts(line):
    """With int8 weights, the rest in fp16, by target."""
    made = edgevit.convert(
        f"{line / 'net.py'}:tiny",
        target=TARGETS,
        weights=line / "float.pt",
        precision="fp16",
        options=ROUNDED_WEIGHTS,
        out=line / "artifacts",
    )
    return dict(zip(TARGETS, made, strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_layers_of_files_with_int8_weights_are_compared(line, artifacts, target):
    report = edgevit.debug(
        artifacts[target], weights=line / "float.pt", model=f"{line / 'net.py'}:tiny", out=line / "results"
    )
    assert report.same_outputs
    assert len(report.layers) > len(report.unrecorded)


def test_int8_weights_are_bit_equal_in_all_files_and_those_of_the_checkpoint(line, artifacts):
    contents = []
    for artifact in artifacts.values():
        assert artifact.name.endswith("-weight_compression-int8")
        found = edgevit.qparams(artifact, weights=line / "float.pt", model=f"{line / 'net.py'}:tiny")
        assert found.comparison.weights == (ROUNDED, ROUNDED)
        assert not found.qparams.activations
        assert "5 of 8 convolutions and linear layers have int8 weights" in found.summary()
        contents.append({layer.content for layer in found.qparams.layers})
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == ROUNDED


def test_another_checkpoint_is_reported_from_the_one_that_was_converted(line, artifacts):
    torch.manual_seed(1)
    metadata = read_checkpoint(line / "float.pt").metadata
    save_checkpoint(line / "other.pt", TinyWide(2), metadata)
    with pytest.raises(ParityError, match="0 of 5 weights"):
        edgevit.qparams(artifacts["tflite"], weights=line / "other.pt", model=f"{line / 'net.py'}:tiny")


def test_artifacts_are_held_to_the_network_with_their_weights(artifacts):
    for artifact in artifacts.values():
        manifest = artifact.manifest
        assert manifest.compression == "int8"
        assert manifest.parity.snr_db > manifest.tolerance.min_snr_db == 50
        assert "max rel. error" in manifest.checks["fp32 reference build"]
        assert "5 of 5 weights" in manifest.checks["qparams"]
        assert "int8 weights" in edgevit.verify(artifact).checks["qparams"]
        golden = artifact.golden_level(artifact.golden(), "L3").reshape(-1)
        exact = seeded(TinyWide, num_classes=2)
        output = exact(torch.from_numpy(_tensor(artifact))).detach().numpy().reshape(-1)
        assert 1e-4 < np.abs(golden - output).max() < 0.1 * np.abs(output).max()  # the weights are rounded


def _tensor(artifact):
    from edgevit.data.preprocess import preprocess

    return preprocess(sample_images()[artifact.golden().name], artifact.manifest.preprocess)


def test_delegates_take_everything_in_one_region(artifacts):
    for target in ("executorch", "tflite"):
        lowering = artifacts[target].manifest.lowering
        assert lowering.regions == 1
        assert not lowering.outside


def test_evaluate_shows_where_accuracy_went(line, artifacts):
    results = edgevit.evaluate(
        list(artifacts.values()), data=str(line / "data"), weights=line / "float.pt", model=f"{line / 'net.py'}:tiny"
    )
    for result in results:
        first, second, last = result.error_breakdown
        assert (first.name, second.name, last.name) == ("float network", "int8 weights", "artifact")
        assert 20 < second.snr_db < 60 < last.snr_db + 10
        assert (second.score, last.score) == (result.data.checkpoint, result.data.artifact)


@pytest.fixture(scope="module")
def pruned(line):
    return edgevit.prune(
        f"{line / 'net.py'}:tiny", weights=line / "float.pt", data=str(line / "data"), out=line / "pruned.pt",
        sparsity=0.6, epochs=1, threads=1,
    )  # fmt: skip


def test_pruned_checkpoint_is_an_ordinary_one_with_zeros(line, pruned):
    checkpoint = read_checkpoint(pruned.checkpoint)
    before = read_checkpoint(line / "float.pt")
    names = [name for name, tensor in before.state_dict.items() if tensor.dim() > 1]
    zeros = sum(int((checkpoint.state_dict[name] == 0).sum()) for name in names)
    assert zeros / sum(before.state_dict[name].numel() for name in names) == pytest.approx(0.6, abs=0.01)
    assert checkpoint.metadata.training["pruning"]["sparsity"] == pytest.approx(pruned.sparsity)
    assert checkpoint.state_dict.keys() == before.state_dict.keys()
    assert any(not torch.equal(checkpoint.state_dict[n][checkpoint.state_dict[n] != 0], before.state_dict[n][
        checkpoint.state_dict[n] != 0]) for n in names)  # fmt: skip
    assert not (line / "pruned.pt.progress").exists()


def test_prune_command_says_what_it_did_and_refuses_a_share_that_is_none(line, pruned, capsys):
    given = ("prune", f"{line / 'net.py'}:tiny", "--weights", line / "float.pt", "--data", line / "data")
    _, out, _ = run(
        capsys, *given, "--out", line / "again.pt", "--sparsity", 0.6, "--epochs", 1, "--threads", 1, "--json"
    )
    recorded = json.loads(out)
    assert recorded["sparsity"] == pytest.approx(pruned.sparsity)
    first, second = (read_checkpoint(line / name).state_dict for name in ("pruned.pt", "again.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)  # the same run, the same weights
    fails(capsys, *given, "--out", line / "none.pt", "--sparsity", 1.5, code=2, says=["sparsity 1.5"])
    assert not (line / "none.pt").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_no_target_has_are_refused_at_once(target):
    with pytest.raises(UsageError, match="unknown weight_compression 'int3'"):
        edgevit.convert(seeded(TinyWide), spec=classifier_spec(), target=target, options={"weight_compression": "int3"})
    with pytest.raises(UsageError, match="leave --no-deploy"):
        edgevit.convert(
            seeded(TinyWide),
            spec=classifier_spec(),
            target=target,
            options=ROUNDED_WEIGHTS,
            deploy=False,
        )


def test_network_without_large_weights_has_nothing_to_store_in_int8(tmp_path):
    with pytest.raises(QuantizationError, match="2049 values or more"):
        edgevit.convert(
            seeded(TinyClassifier),
            spec=classifier_spec(),
            target="tflite",
            options=ROUNDED_WEIGHTS,
            out=tmp_path,
        )
