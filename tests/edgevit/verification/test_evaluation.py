"""Accuracy beside the checkpoint's, and Core ML against the interpreter, with sessions of fixed outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgevit.contract.manifest import Executed, NotExecuted
from edgevit.data.datasets import ImageSet
from edgevit.errors import UsageError
from edgevit.spec import Task
from edgevit.targets.base import INTERPRETER
from edgevit.verification import checks, evaluation
from edgevit.verification.checks import DataScore, Verification
from edgevit.verification.evaluation import header, row
from edgevit.verification.verifier import verify
from tests.fakes import CONVERTER, FakeSession, write_artifact


def _result(**changes) -> Verification:
    parity = Executed("reference interpreter, declared", 12, 0.1, 0.01, 40.0, 1.0, 1.0)
    scores = {"top-1": {"checkpoint": 0.75, "artifact": 0.7}}
    data = DataScore("photos", "test", 12, "top-1", 0.75, 0.7, 0.9, scores, float_network=0.76)
    return dataclasses.replace(Verification("net-fp16-coreml", "0" * 64, {}, parity, data, 1.0), **changes)


def test_row_shows_both_accuracies_their_difference_and_where_it_ran():
    assert row(_result()) == (
        "net-fp16-coreml",
        "reference parity (interpreter)",
        "75.00 %",
        "70.00 %",
        "+6.00",
        "90.00 %",
        "12",
    )


def test_row_leaves_out_what_was_not_run():
    scores = {"top-1": {"checkpoint": None, "artifact": None}}
    data = DataScore("photos", "test", 12, "top-1", None, None, None, scores)
    cells = row(_result(parity=NotExecuted("coreml", "needs macOS"), data=data))
    assert cells == ("net-fp16-coreml", "not executed", "-", "-", "-", "-", "12")


def test_compressed_weights_are_named_in_the_summary():
    assert _result(compression="int8").summary().startswith("weights compressed to int8: max rel. error 1.0e-02, 40 dB")


def test_segmentation_shows_both_scores():
    scores = {"mIoU": {"checkpoint": 0.75, "artifact": 0.7}, "Dice": {"checkpoint": 0.85, "artifact": None}}
    result = _result(data=DataScore("tiles", "test", 12, "mIoU", 0.75, 0.7, 0.9, scores, float_network=0.75))
    assert header([result])[2:7] == (
        "mIoU checkpoint", "mIoU artifact", "Dice checkpoint", "Dice artifact", "drop from float"
    )  # fmt: skip
    assert row(result)[2:7] == ("75.00 %", "70.00 %", "85.00 %", "-", "+5.00")
    assert "on 12 images: mIoU checkpoint 75.0 %, artifact 70.0 %; Dice checkpoint 85.0 %" in result.summary()


def test_images_with_a_class_each_do_not_score_masks(tmp_path, monkeypatch):
    artifact = write_artifact(tmp_path / "net")
    model = dataclasses.replace(artifact.manifest.model, task=Task.SEGMENT)
    artifact = dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, model=model))
    images = ImageSet((), np.array([], np.int64), ("blue", "green", "red"), "photos/test")
    monkeypatch.setattr(evaluation, "open_dataset", lambda *_: images)
    with pytest.raises(UsageError, match=r"photos/test has a class per image, .* outputs a class per pixel"):
        evaluation.evaluate(artifact, data="photos")


@pytest.mark.parametrize(
    ("labels", "says"), [(("red", "blue"), "has 3 classes"), (("blue", "green", "red"), "in another order")]
)
def test_data_with_other_classes_gives_no_score(tmp_path, monkeypatch, labels, says):
    images = ImageSet((), np.array([], np.int64), labels, "photos/test")
    monkeypatch.setattr(evaluation, "open_dataset", lambda *_: images)
    with pytest.raises(UsageError, match=says):
        evaluation.evaluate(write_artifact(tmp_path), data="photos")


@pytest.fixture
def coreml(tmp_path, monkeypatch):
    """A fake artifact called Core ML's, and the gains of its sessions by accelerator: Core ML is `cpu`."""
    artifact = write_artifact(tmp_path / "net")
    dataclasses.replace(artifact.manifest, target="coreml").write(artifact.path)
    gains = {"cpu": 1.001, INTERPRETER: 1.0}
    opened = []

    class Converter:
        ml_program = True

        def check(self, folder, manifest):
            return {}

        def open(self, folder, manifest, accelerator="cpu", threads=1):
            runs = accelerator if "cpu" in gains else INTERPRETER
            session = FakeSession(gain=gains[runs], accelerator=runs, runtime=f"fake on {runs}")
            opened.append(session)
            return session

    for module in ("edgevit.verification.checks", "edgevit.artifacts.artifact"):
        monkeypatch.setattr(f"{module}.get_converter", lambda name: Converter())
    monkeypatch.setattr(checks, "check_goldens", lambda artifact: 1)
    monkeypatch.setattr(checks, "check_parity", lambda *_: None)
    return artifact.path, gains, opened


def test_on_a_mac_both_run_and_are_compared(coreml):
    path, _, opened = coreml
    result = verify(path, interpreter=True)
    assert isinstance(result.interpreter, Executed)
    assert result.interpreter.runtime == "fake on cpu"
    assert result.interpreter.max_relative_error == pytest.approx(1e-3, rel=1e-2)
    assert "against the interpreter: max rel. error 1.0e-03" in result.summary()
    assert len(opened) == 2
    assert all(session.closed for session in opened)


def test_without_the_flag_core_ml_runs_alone(coreml):
    path, _, opened = coreml
    assert verify(path).interpreter is None
    assert len(opened) == 1


def test_where_the_interpreter_is_the_runtime_the_flag_says_so(coreml):
    path, gains, opened = coreml
    del gains["cpu"]
    result = verify(path, interpreter=True)
    assert isinstance(result.interpreter, NotExecuted)
    assert "the interpreter is what runs here" in result.summary()
    assert len(opened) == 1


def test_other_targets_have_no_interpreter(tmp_path, monkeypatch):
    artifact = write_artifact(tmp_path / "net")
    monkeypatch.setattr(checks, "get_converter", lambda name: CONVERTER)
    with pytest.raises(UsageError, match="no interpreter evaluates fake artifacts"):
        verify(artifact, interpreter=True)
