"""Segmentation along the whole line: from a float checkpoint and a folder of masks to int8 files and overlays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import edgevit
from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.contract.manifest import Executed
from edgevit.data.image_io import read_image
from tests.edgevit.cli.test_main import fails, run
from tests.edgevit.training.test_segmentation import LABELS, squares
from tests.edgevit.user_folder import write_network
from tests.tiny import TinySegmenter

TARGETS = ("executorch", "coreml", "tflite")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A folder with net.py, data, a float checkpoint and the int8 one that was trained from it."""
    folder = tmp_path_factory.mktemp("masks")
    write_network(folder, TinySegmenter, LABELS)
    for split, count in (("train", 24), ("test", 12)):
        images = squares(count)
        for index in range(count):
            for kind, pixels in (("images", images.images[index]), ("masks", images.masks[index])):
                path = folder / "data" / split / kind / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (folder / "data" / "labels.txt").write_text("\n".join(LABELS))
    model, data = f"{folder / 'net.py'}:tiny", str(folder / "data")
    edgevit.qat(
        model, weights=folder / "float.pt", data=data, out=folder / "qat.pt", epochs=2, learning_rate=1e-3, threads=1
    )
    return folder


@pytest.fixture(scope="module")
def artifacts(line):
    return edgevit.convert(
        f"{line / 'net.py'}:tiny", target=TARGETS, weights=line / "qat.pt", precision="int8", out=line / "artifacts"
    )


def test_checkpoint_says_what_counts(line):
    recorded = read_checkpoint(line / "qat.pt").metadata.quantization
    assert recorded["metric"] == "mIoU"
    assert recorded["curve"][-1]["scores"].keys() == {"mIoU", "Dice"}


def test_every_target_computes_silu_in_int8(artifacts):
    ops = {artifact.manifest.target: artifact.manifest.lowering for artifact in artifacts}
    assert ops["tflite"].ops["QUANTIZE"] == ops["tflite"].ops["DEQUANTIZE"] == 1
    assert (ops["executorch"].regions, ops["executorch"].outside) == (1, {})
    for artifact in artifacts:
        assert artifact.manifest.parity.agreement > 0.98
        assert isinstance(edgevit.verify(artifact).parity, Executed)


def test_scores_are_those_of_the_int8_network(line, artifacts, capsys):
    code, out, _ = run(
        capsys, "evaluate", *(artifact.path for artifact in artifacts), "--weights", line / "qat.pt",
        "--model", f"{line / 'net.py'}:tiny", "--data", line / "data", "--json",
    )  # fmt: skip
    assert code == 0
    recorded = read_checkpoint(line / "qat.pt").metadata.quantization
    for document in json.loads(out):
        data, stages = document["data"], document["error_breakdown"]
        assert data["metric"] == "mIoU"
        assert data["checkpoint"] == data["scores"]["mIoU"]["checkpoint"] == pytest.approx(recorded["score"], abs=1e-3)
        assert data["scores"]["Dice"]["artifact"] > data["artifact"]
        assert data["agreement"] > 0.99  # of pixels
        assert [step["metric"] for step in stages] == ["mIoU"] * 4
        assert [step["score"] for step in stages[2:]] == [data["checkpoint"], data["artifact"]]


def test_tables_speak_of_masks(line, artifacts, capsys):
    code, out, _ = run(
        capsys, "evaluate", artifacts[2].path, "--weights", line / "qat.pt", "--model", f"{line / 'net.py'}:tiny",
        "--data", line / "data",
    )  # fmt: skip
    assert code == 0
    assert "mIoU checkpoint" in out
    assert "Dice artifact" in out
    assert "top-1" not in out


def test_overlay_leaves_background_as_it_was(line, artifacts, tmp_path, capsys):
    image = line / "data" / "test" / "images" / "0.png"
    code, *_ = run(capsys, "predict", artifacts[2].path, image, "--out", tmp_path)
    assert code == 0
    photo, shown = read_image(image), read_image(tmp_path / "0.overlay.png")
    mask = np.asarray(Image.open(tmp_path / "0.mask.png"))
    assert np.array_equal(shown[mask == 0], photo[mask == 0])
    if (mask == 1).any():
        assert not np.array_equal(shown[mask == 1], photo[mask == 1])


def test_quantize_scores_masks(line, capsys):
    given = [f"{line / 'net.py'}:tiny", "--weights", line / "float.pt", "--data"]
    code, out, err = run(capsys, "quantize", *given, line / "data", "--out", line / "ptq.pt", "--json")
    assert code == 0
    assert json.loads(out)["scores_int8"].keys() == {"mIoU", "Dice"}
    assert "mIoU" in err
    fails(
        capsys, "quantize", *given, "digits", "--out", line / "never.pt",
        code=2, says=["digits/train has a class per image"],
    )  # fmt: skip
