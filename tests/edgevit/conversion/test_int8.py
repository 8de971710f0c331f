"""From a float checkpoint to int8 files in four runtimes, by the commands that a user has."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

import edgevit
from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.contract.manifest import Executed
from edgevit.data.preprocess import preprocess
from edgevit.data.synthetic_images import sample_images
from edgevit.errors import QuantizationError, UsageError
from edgevit.mil.lint import Level, lint
from tests.edgevit.cli.test_main import fails, run
from tests.edgevit.user_folder import write_images, write_network
from tests.tiny import TinyClassifier, classifier_spec, seeded

LABELS = ("even", "odd")
TARGETS = ("executorch", "coreml", "tflite", "onnx")
HALVES = {"int8_compute": "fp16"}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A folder with net.py, a float checkpoint, labelled images, and the int8 checkpoint made of them."""

    folder = tmp_path_factory.mktemp("int8")
    write_network(folder, TinyClassifier, LABELS)
    write_images(folder, LABELS, train=48, test=24)
    model, data = f"{folder / 'net.py'}:tiny", str(folder / "data")
    edgevit.quantize(model, weights=folder / "float.pt", data=data, out=folder / "ptq.pt")
    edgevit.qat(
        model, weights=folder / "ptq.pt", data=data, out=folder / "qat.pt", epochs=2, learning_rate=1e-3, threads=1
    )
    return folder


@pytest.fixture(scope="module")
def artifacts(line):
    return edgevit.convert(
        f"{line / 'net.py'}:tiny", target=TARGETS, weights=line / "qat.pt", precision="int8", out=line / "artifacts"
    )


def test_all_runtimes_compute_what_was_trained(artifacts):
    for artifact in artifacts:
        manifest = artifact.manifest
        assert manifest.precision == "int8"
        assert manifest.parity.snr_db is None or manifest.parity.snr_db > 35
        assert manifest.parity.agreement == 1
        assert "max rel. error" in manifest.checks["fp32 reference build"]
        assert manifest.provenance.weights.quantization == "qat"
        assert isinstance(edgevit.verify(artifact).parity, Executed)


@pytest.fixture(scope="module")
def halves(line):
    """Core ML's file with float16 between the quantized tensors."""
    return edgevit.convert(
        f"{line / 'net.py'}:tiny",
        target="coreml",
        weights=line / "qat.pt",
        precision="int8",
        out=line / "artifacts",
        options=HALVES,
    )


def test_runtimes_for_phones_are_bit_exact(artifacts):
    by_target = {artifact.manifest.target: artifact for artifact in artifacts}
    for pixels in sample_images().values():
        tensor = preprocess(pixels, artifacts[0].manifest.preprocess)
        outputs = [by_target[target].run(tensor) for target in ("executorch", "tflite", "coreml")]
        assert np.array_equal(outputs[0], outputs[1])
        assert np.array_equal(outputs[0], outputs[2])


def test_core_ml_in_emulated_integers_is_the_trained_network(artifacts):
    (whole,) = (artifact for artifact in artifacts if artifact.manifest.target == "coreml")
    manifest = whole.manifest
    assert whole.name.endswith("-int8-coreml")
    assert (manifest.parity.max_relative_error, manifest.parity.snr_db) == (0, None)
    assert manifest.tolerance.min_snr_db == 35
    assert not [
        finding
        for finding in lint(whole.path / manifest.entry, manifest=manifest)
        if finding.level is Level.ERROR or "fp16" in finding.message
    ]


def test_core_ml_in_fp16_has_the_same_scales_and_a_name_of_its_own(line, halves, artifacts):
    assert halves.name.endswith("-int8-coreml-int8_compute-fp16")
    assert halves.manifest.tolerance.min_snr_db == 25
    (whole,) = (artifact for artifact in artifacts if artifact.manifest.target == "coreml")
    assert halves.manifest.checks["qparams"] == whole.manifest.checks["qparams"]
    with pytest.raises(UsageError, match="only int8 has an int8_compute"):
        edgevit.convert(seeded(TinyClassifier), spec=classifier_spec(), target="coreml", options=HALVES, out=line)


def test_core_ml_in_emulated_integers_takes_images(line):
    artifact = edgevit.convert(
        f"{line / 'net.py'}:tiny",
        target="coreml",
        weights=line / "qat.pt",
        precision="int8",
        out=line / "images",
        options={"image_input": "true"},
    )
    assert artifact.manifest.inputs[0].color == "RGB"
    assert artifact.manifest.parity.snr_db is None or artifact.manifest.parity.snr_db > 35


def test_every_layer_computes_in_int8(artifacts):
    operations = {artifact.manifest.target: artifact.manifest.lowering for artifact in artifacts}
    assert operations["tflite"].ops["QUANTIZE"] == 1  # the input; nothing comes back from float in between
    assert operations["tflite"].ops["DEQUANTIZE"] == 1
    assert operations["executorch"].delegated == operations["executorch"].nodes


def test_core_ml_package_has_no_errors_and_says_int8(artifacts):
    (package,) = (artifact for artifact in artifacts if artifact.manifest.target == "coreml")
    findings = lint(package.path / package.manifest.entry, manifest=package.manifest)
    assert not [finding for finding in findings if finding.level is Level.ERROR]
    assert package.manifest.checks["precision"] == "int8"


def test_scores_are_those_of_the_int8_network(line, artifacts):
    results = edgevit.evaluate(
        artifacts, data=str(line / "data"), weights=line / "qat.pt", model=f"{line / 'net.py'}:tiny"
    )
    recorded = read_checkpoint(line / "qat.pt").metadata.quantization
    for result in results:
        floats, exported, integers, last = result.error_breakdown
        names = ["float network", "exported graph", "int8 network", "artifact"]
        assert [step.name for step in result.error_breakdown] == names
        assert exported.snr_db < 60
        assert (integers.score, last.score) == (result.data.checkpoint, result.data.artifact)
        assert result.data.float_network == floats.score
        assert result.data.drop == floats.score - last.score
        assert last.snr_db is None or last.snr_db > exported.snr_db
        assert result.data.agreement == 1
        assert result.data.checkpoint == pytest.approx(recorded["score"])


def test_layers_are_compared_by_the_command(line, artifacts, halves, capsys):
    weights = ["--model", f"{line / 'net.py'}:tiny", "--weights", line / "qat.pt"]
    for artifact in (*(one for one in artifacts if one.manifest.target != "executorch"), halves):
        code, out, _ = run(capsys, "debug", artifact.path, *weights, "--data", line / "data", "--samples", 2, "--json")
        recorded = json.loads(out)
        assert (code, recorded["images"], recorded["same_outputs"]) == (0, 2, True)
        assert len(recorded["unrecorded"]) <= (
            artifact.manifest.target == "coreml"
        )  # one name is lost in its converter
        moved = max(error["accumulated"]["lsb_mismatch"] or 0 for error in recorded["layers"])
        in_floats = artifact is halves or artifact.manifest.target == "onnx"
        assert moved <= (0.2 if in_floats else 0)
        assert {"input", "conv2d", "gelu"} <= {error["layer"]["operation"] for error in recorded["layers"]}
        written = artifact.path.parent / "results" / f"{artifact.name}.debug.json"
        assert json.loads(written.read_text()) == recorded
    code, out, _ = run(capsys, "debug", artifacts[2].path, *weights, "--reference", "float", "--json")
    recorded = json.loads(out)
    assert (code, recorded["reference"], recorded["unrecorded"]) == (0, "float", [])
    noise = [error["local"]["snr_db"] for error in recorded["layers"]]
    assert noise == sorted(noise)
    assert 15 < noise[0] < noise[-1] < 70
    assert (artifacts[2].path.parent / "results" / f"{artifacts[2].name}.float.debug.json").is_file()
    code, out, _ = run(capsys, "verify", artifacts[2].path, *weights)
    assert code == 0
    assert out.splitlines()[1] == f"quantization parameters: {artifacts[2].manifest.checks['qparams']}"
    assert [row.split("  ")[0] for row in out.splitlines()[-3:]] == ["exported graph", "int8 network", "artifact"]
    fails(
        capsys, "debug", artifacts[2].path, *weights[:3], line / "ptq.pt", code=2, says=["was not made from"]
    )  # fmt: skip
    fails(
        capsys, "debug", artifacts[2].path, *weights, "--reference", "floats", code=2, says=["floats", "float"]
    )  # fmt: skip


def test_layers_in_float_are_reported_and_converted(line, capsys):
    given = [f"{line / 'net.py'}:tiny", "--data", line / "data", "--weights"]
    code, out, err = run(
        capsys, "quantize", *given, line / "float.pt", "--samples", 16, "--out", line / "mixed.pt", "--max-drop", 100
    )
    assert (code, out.strip()) == (0, str(line / "mixed.pt"))
    assert re.search(r"\b0 of \d+ layers stay in float", err)
    assert "budget" in read_checkpoint(line / "mixed.pt").metadata.quantization


def test_training_goes_on_from_an_int8_checkpoint(line):
    first, second = (read_checkpoint(line / name) for name in ("ptq.pt", "qat.pt"))
    assert (first.metadata.quantization["method"], second.metadata.quantization["method"]) == ("ptq", "qat")
    assert first.metadata.labels == second.metadata.labels == LABELS
    assert first.int8.tensors.keys() == second.int8.tensors.keys()
    assert all(torch.equal(first.state_dict[name], second.state_dict[name]) for name in first.state_dict)
    assert any(not torch.equal(value, second.int8.tensors[name]) for name, value in first.int8.tensors.items())


def test_commands_tell_what_they_did(line, capsys):
    given = [f"{line / 'net.py'}:tiny", "--data", line / "data", "--weights"]
    code, out, _ = run(
        capsys, "quantize", *given, line / "float.pt", "--samples", 16, "--out", line / "again.pt", "--json"
    )
    recorded = json.loads(out)
    assert (code, recorded["samples"], recorded["weighted"], recorded["float_fallback"]) == (0, 16, 6, {})
    assert 0 <= recorded["scores_int8"]["top-1"] <= 1
    code, out, err = run(
        capsys, "qat", *given, line / "again.pt", "--epochs", 1, "--out", line / "trained.pt", "--threads", 1
    )
    assert (code, out.strip()) == (0, str(line / "trained.pt"))
    assert "in int8 on 24 held-out images" in err
    fails(
        capsys, "convert", given[0], "--weights", line / "float.pt", "--target", "tflite", "--precision", "int8",
        code=4, says=["is not quantized"],
    )  # fmt: skip


def test_int8_without_scales_is_refused(line):
    model = f"{line / 'net.py'}:tiny"
    with pytest.raises(QuantizationError, match=r"float\.pt is not quantized"):
        edgevit.convert(model, target="tflite", weights=line / "float.pt", precision="int8", out=line / "none")
    with pytest.raises(QuantizationError, match="without weights there is no int8 network"):
        edgevit.convert(model, target="tflite", precision="int8", out=line / "none")


def test_int8_checkpoint_in_another_precision_is_refused(line):
    with pytest.raises(UsageError, match="is an int8 checkpoint"):
        edgevit.convert(f"{line / 'net.py'}:tiny", target="tflite", weights=line / "qat.pt", out=line / "none")


def test_int8_without_the_deployed_form_is_refused(line):
    with pytest.raises(UsageError, match="deployed form"):
        edgevit.convert(
            f"{line / 'net.py'}:tiny", target="tflite", weights=line / "qat.pt", precision="int8", deploy=False,
            out=line / "none",
        )  # fmt: skip


def test_few_images_are_reported(line, caplog):
    edgevit.quantize(
        f"{line / 'net.py'}:tiny", weights=line / "float.pt", data=str(line / "data"), samples=4, out=line / "few.pt"
    )
    assert "only 4 calibration images" in caplog.text


def test_damaged_and_constant_images_are_reported_and_count_as_neither_right_nor_wrong(
    line, artifacts, tmp_path, caplog
):
    from PIL import Image

    data = shutil.copytree(line / "data", tmp_path / "data")
    (data / "train" / "odd" / "1.png").write_bytes(b"")
    Image.new("RGB", (9, 9), "red").save(data / "train" / "odd" / "3.png")
    (data / "test" / "even" / "0.png").write_bytes(b"")
    model = f"{line / 'net.py'}:tiny"
    result = edgevit.quantize(model, weights=line / "float.pt", data=str(data), out=tmp_path / "ptq.pt")
    assert result.samples == 47
    assert "1 of 47 calibration images have one colour alone" in caplog.text
    assert all(name in caplog.text for name in ("odd/1.png", "even/0.png"))
    (one,) = (artifact for artifact in artifacts if artifact.manifest.target == "tflite")
    (scored,) = edgevit.evaluate(one, data=str(data), out=tmp_path)
    assert (scored.data.samples, scored.data.skipped) == (23, 1)


def test_data_of_other_classes_is_refused(line, tmp_path):
    with pytest.raises(UsageError, match="2 classes"):
        edgevit.quantize(f"{line / 'net.py'}:tiny", weights=line / "float.pt", data="digits", out=tmp_path / "never.pt")
    assert not (tmp_path / "never.pt").exists()
