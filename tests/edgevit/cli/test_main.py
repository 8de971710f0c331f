"""The command line as a user meets it: help at once, one line per mistake, documented exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import edgevit
from edgevit.cli.main import COMMANDS, main
from edgevit.data.synthetic_images import sample_images
from edgevit.targets import registry

HEAVY = ("torch", "numpy", "tensorflow", "coremltools", "lightning", "executorch", "plotly", "PIL", "onnx")


def run(capsys, *arguments):
    """Exit code, stdout, stderr of one command in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
        sys.exit(0)
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def fails(capsys, *arguments, code, says):
    """The command ends with `code` and says one error line with every word of `says`, and a fix."""
    found, _, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith(("error:", "  fix:"))]
    assert found == code, err
    assert [line[:6] for line in lines] == ["error:", "  fix:"], err
    assert "Traceback" not in err
    for word in [says] if isinstance(says, str) else says:
        assert word in " ".join(lines), err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy_and_outputs_at_once(command):
    script = (
        "import sys\nfrom edgevit.cli.main import main\n"
        f"try:\n    main({[*([command] if command else []), '--help']!r})\n"
        "finally:\n    print([m for m in sys.modules if m in " + repr(HEAVY) + "], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.strip() == "[]"
    assert "--help" in done.stdout
    assert not command or COMMANDS[command]


def test_help_takes_at_most_ten_times_an_empty_program():
    def seconds(code):
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
            times.append(time.perf_counter() - started)
        return sorted(times)[3]

    assert seconds("from edgevit.cli.main import main; main(['--help'])") <= 10 * seconds("pass")


def test_no_argument_prints_help(capsys):
    _, out, _ = run(capsys)
    assert all(command in out for command in COMMANDS)


def test_unknown_names_come_with_the_nearest(capsys):
    fails(capsys, "convrt", code=2, says="did you mean convert")
    fails(
        capsys, "convert", "van_bo", "-t", "executorch", code=2, says=["unknown model 'van_bo'", "did you mean van_b"]
    )
    fails(capsys, "convert", "van_b0", "-t", "coremll", code=2, says=["unknown target", "coreml"])
    fails(
        capsys, "convert", "van_b0", "-t", "coreml", "--precision", "fp17", code=2, says=["unknown precision", "fp16"]
    )


def test_unknown_option_is_exit_2(capsys):
    code, _, err = run(capsys, "convert", "van_b0", "--tarket", "coreml")
    assert code == 2
    assert "--target" in err


def test_bad_values(capsys, tmp_path):
    fails(capsys, "convert", "van_b0", "-t", "coreml", "-O", "x", code=2, says="KEY=VALUE")
    fails(
        capsys,
        "convert",
        "van_b0",
        "-t",
        "coreml",
        "--input-size",
        33,
        "--out",
        tmp_path,
        code=2,
        says="multiple of 32",
    )
    fails(capsys, "convert", "van_b0", "-t", "coreml", "--classes", 0, "--out", tmp_path, code=2, says="at least 1")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    labels = ("--labels", tmp_path / "labels.txt")
    fails(
        capsys,
        "convert",
        "van_b0",
        "-t",
        "coreml",
        "--out",
        tmp_path,
        "--classes",
        3,
        *labels,
        code=2,
        says="2 labels for 3 classes",
    )
    (tmp_path / "empty.txt").write_text("\n")
    fails(capsys, "convert", "van_b0", "-t", "coreml", "--labels", tmp_path / "empty.txt", code=2, says="is empty")


def test_weights_of_another_model(capsys, tmp_path):
    torch.save({"stem.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    fails(
        capsys,
        "convert",
        "van_b0",
        "-t",
        "executorch",
        "--weights",
        tmp_path / "other.pt",
        "--out",
        tmp_path / "out",
        code=2,
        says=["missing", "patch_embed1.proj.weight", "unexpected", "stem.weight"],
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_truncated_and_missing_checkpoints(capsys, tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:900])
    for name in ("cut.pt", "absent.pt"):
        fails(
            capsys,
            "convert",
            "van_b0",
            "-t",
            "executorch",
            "--weights",
            tmp_path / name,
            "--out",
            tmp_path / "out",
            code=2,
            says=name,
        )


def test_malicious_checkpoint_runs_nothing(capsys, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    torch.save({"state_dict": {"a": torch.zeros(1)}, "bomb": Bomb()}, tmp_path / "bomb.pt")
    fails(
        capsys,
        "convert",
        "van_b0",
        "-t",
        "executorch",
        "--weights",
        tmp_path / "bomb.pt",
        "--out",
        tmp_path / "out",
        code=2,
        says="missing",
    )
    assert not (tmp_path / "exploded").exists()


def test_own_model_files(capsys, tmp_path, my_model):
    for model, says in (
        (f"{tmp_path}/absent.py:build", "no file"),
        (f"{my_model}:bild", "did you mean build?"),
        (f"{my_model}:no_module", "returned a int"),
        (f"{my_model}:number", "is a int"),
        (f"{my_model}:three_outputs", "cannot take an image"),
        (str(my_model), "names no factory"),
    ):
        fails(capsys, "convert", model, "-t", "executorch", "--out", tmp_path / "out", code=2, says=says)


@pytest.mark.skipif(os.name != "posix", reason="needs /dev")
def test_output_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    fails(
        capsys,
        "convert",
        "van_b0",
        "-t",
        "executorch",
        "--out",
        tmp_path / "file" / "x",
        code=8,
        says=["cannot write", "--out"],
    )


def test_missing_library_names_its_extra(capsys, tmp_path, monkeypatch, classifier_artifact):
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings._portable_lib", None)
    fails(capsys, "verify", classifier_artifact.path, code=3, says='pip install "edgevit[executorch]"')


def test_predict(capsys, tmp_path, classifier_artifact):
    Image.fromarray(sample_images()["landscape"]).save(tmp_path / "photo.png")
    code, out, _ = run(capsys, "predict", classifier_artifact.path, tmp_path / "photo.png", "--top", 2, "--json")
    assert code == 0
    (document,) = json.loads(out)
    assert [set(p) for p in document["classes"]] == [{"label", "index", "probability"}] * 2
    code, out, _ = run(capsys, "predict", classifier_artifact.path, tmp_path / "photo.png")
    assert code == 0
    assert document["classes"][0]["label"] in out


def test_predict_writes_mask_and_overlay(capsys, tmp_path, segmenter_artifact):
    Image.fromarray(sample_images()["portrait"]).save(tmp_path / "photo.png")
    code, _, _ = run(capsys, "predict", segmenter_artifact.path, tmp_path / "photo.png", "--out", tmp_path)
    assert code == 0
    height, width = sample_images()["portrait"].shape[:2]
    mask = np.asarray(Image.open(tmp_path / "photo.mask.png"))
    assert mask.shape == (height, width)
    assert mask[0, 0] == 255  # above the centre crop of an upright photo
    assert np.asarray(Image.open(tmp_path / "photo.overlay.png")).shape == (height, width, 3)


def test_image_that_is_none(capsys, tmp_path, classifier_artifact):
    (tmp_path / "text.jpg").write_text("hello")
    fails(capsys, "predict", classifier_artifact.path, tmp_path / "text.jpg", code=2, says="text.jpg")
    fails(capsys, "predict", classifier_artifact.path, tmp_path / "absent.jpg", code=2, says="absent.jpg")


def test_damaged_artifact(capsys, classifier_copy, tmp_path):
    (classifier_copy.path / "labels.txt").write_text("x")
    for command in (("verify",), ("profile",), ("bundle", "android")):
        fails(capsys, *command, classifier_copy.path, code=7, says="labels.txt")
    fails(capsys, "verify", tmp_path / "nowhere", code=7, says="manifest.json")


def test_verify_writes_its_result(capsys, classifier_copy):
    code, out, _ = run(capsys, "verify", classifier_copy.path, "--json")
    assert code == 0
    (document,) = json.loads(out)
    saved = classifier_copy.path.parent / "results" / f"{classifier_copy.name}.verify.json"
    assert json.loads(saved.read_text()) == document
    assert document["artifact_sha256"] == classifier_copy.manifest_sha256


def test_list_names_what_exists(capsys):
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    document = json.loads(out)
    names = {model["name"] for model in document["models"]}
    assert {"van_b0", "mobile_former_26m", "mobile_former_508m", "vt_resnet18", "segnetr_64", "segnetr_32"} <= names
    assert {target["name"] for target in document["targets"]} == set(registry.converter_names())
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert all(name in out for name in names)


def test_debug_shows_the_trace(classifier_artifact):
    with pytest.raises(Exception, match="unknown model"):
        main(["convert", "van_bo", "-t", "executorch", "--debug"])


def test_bundle_copies_into_the_app(capsys, tmp_path, classifier_artifact):
    (tmp_path / "apps" / "android").mkdir(parents=True)
    code, out, _ = run(capsys, "bundle", "android", classifier_artifact.path, "--root", tmp_path)
    assert code == 0
    copied = tmp_path / "apps/android/app/src/main/assets/edgevit" / classifier_artifact.name
    assert str(copied) in out
    assert (copied / "manifest.json").read_bytes() == (classifier_artifact.path / "manifest.json").read_bytes()
    fails(capsys, "bundle", "ios", classifier_artifact.path, "--root", tmp_path, code=2, says="no")
    fails(capsys, "bundle", "androit", classifier_artifact.path, code=2, says="did you mean android")


def test_list_shows_family_accuracy_tier_and_licence(capsys):
    _, out, _ = run(capsys, "list")
    (row,) = [line for line in out.splitlines() if " van_b2 " in line]
    assert row.split()[:8] == ["van", "van_b2", "classify", "26.58", "4.994", "82.8", "224", "edge"]
    assert "commercial use: ask the authors" in row
    _, out, _ = run(capsys, "list", "--json")
    models = {model["name"]: model for model in json.loads(out)["models"]}
    assert models["cvt_w24_384"]["tier"] == "server"
    assert (models["segnetr_32"]["top1"], models["segnetr_32"]["family"]) == (None, "segnetr")


def test_info_shows_layers_and_what_targets_do(capsys):
    code, out, _ = run(capsys, "info", "van_b0", "--input-size", "32", "--classes", "10", "--depth", "1", "--json")
    assert code == 0
    document = json.loads(out)
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert layers["head"] == {"name": "head", "kind": "Linear", "shape": [1, 10], "params": 2570, "macs": 2560}
    assert layers["patch_embed1"]["shape"] == [1, 32, 8, 8]
    assert not any("." in name for name in layers)
    targets = {plan["target"]: plan for plan in document["targets"]}
    assert targets["tflite"]["meant"]
    assert targets["tflite"]["passes"]["split_depthwise"] == 13
    assert "split_depthwise" not in targets["coreml"]["passes"]


def test_info_of_a_large_model_leaves_phones_alone(capsys):
    code, out, _ = run(capsys, "info", "van_b3", "--depth", "1")
    assert code == 0
    assert re.search(r"^head +Linear +1x1000 +513000 +0\.51$", out, re.M)
    assert re.search(r"^tflite +no ", out, re.M)
    fails(capsys, "info", "van_b9", code=2, says="did you mean")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("scales", "x", "--against", "y.pt"), "`edgevit scales` is called `edgevit qparams` now"),
        (("qparams", "x", "--against", "y.pt"), "--against of `edgevit qparams` is called --weights now"),
        (("debug", "x", "--against=float"), "--against of `edgevit debug` is called --reference now"),
    ],
)
def test_old_words_are_refused_by_the_new_one(capsys, words, says):
    fails(capsys, *words, code=2, says=says)


def test_old_function_is_refused_by_the_new_one():
    with pytest.raises(AttributeError, match=r"edgevit\.scales is called edgevit\.qparams now"):
        edgevit.scales  # noqa: B018


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"edgevit {edgevit.__version__}\n"


def test_name_that_no_file_can_have_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify", "a" * 300])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: aaa")
    assert "File name too long\n  fix: correct the path" in error
