"""Logs beside a run: one row per epoch, whole also after a kill, and no other run's."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.errors import UsageError
from edgevit.training.module import Classifier
from edgevit.training.trainer import train_network
from tests.edgevit.training.test_trainer import RECIPE, Killed, colours, toy_spec

SETS = colours(16), colours(4)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_table_and_events_hold_the_curve(tmp_path):
    result = train_network(toy_spec(), *SETS, RECIPE, tmp_path / "toy.pt", logs=tmp_path / "logs")
    found = rows(tmp_path / "logs")
    assert [row["step"] for row in found] == [1, 2, 3]
    assert [row["loss"] for row in found] == pytest.approx([epoch.loss for epoch in result.curve])
    assert [row["top-1"] for row in found] == pytest.approx([epoch.score for epoch in result.curve])
    (events,) = (tmp_path / "logs").glob("events.out.tfevents.*")
    assert events.read_bytes().count(b"top-1") == 3


def test_killed_run_goes_on_with_a_whole_table(tmp_path, monkeypatch):
    step = Classifier.training_step

    def training_step(self, batch, index):
        if self.current_epoch == 2:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "training_step", training_step)
        with pytest.raises(Killed):
            train_network(toy_spec(), *SETS, RECIPE, tmp_path / "toy.pt", logs=tmp_path / "logs")
    assert len(rows(tmp_path / "logs")) == 2
    train_network(toy_spec(), *SETS, RECIPE, tmp_path / "toy.pt", logs=tmp_path / "logs", resume=True)
    assert [row["step"] for row in rows(tmp_path / "logs")] == [1, 2, 3]


def test_logs_of_another_run_are_refused_and_stay(tmp_path):
    (tmp_path / "metrics.csv").write_text("step\n1\n")
    with pytest.raises(UsageError, match="logs of another run"):
        train_network(toy_spec(), *SETS, dataclasses.replace(RECIPE, epochs=1), tmp_path / "toy.pt", logs=tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "step\n1\n"


def test_events_need_no_tensorflow():
    code = "import sys, tensorboardX; sys.exit(any(name.startswith('tensorflow') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
