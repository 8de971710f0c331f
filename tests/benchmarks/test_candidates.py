"""The processes of a comparison: they exist by the names they are started by, and time as the rules say."""

from __future__ import annotations

import importlib.util
import json
import re
import sys

import numpy as np
import pytest

from benchmarks import candidates, server
from benchmarks.baseline_conversions import INPUT
from benchmarks.comparison import Timing
from benchmarks.tables import documents
from benchmarks.tables.committed import ROOT

TIMING = Timing(threads=3, rounds=9, warmup_runs=2, warmup_s=0.0, runs=5, min_s=0.0, max_s=60.0)


class Doubling:
    """Stands for a candidate that is loaded, as an engine and as a session."""

    runtime = "some 1.0"
    calls = 0

    def layout(self, image):
        return image

    def run(self, inputs):
        self.calls += 1
        return 2 * inputs[INPUT]


class DoublingSession(Doubling):
    """Outputs by name, as sessions give them."""

    def run(self, inputs):
        return {"logits": super().run(inputs)}


@pytest.fixture
def setup(tmp_path):
    image = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "input.npy", image)
    np.save(tmp_path / "expected.npy", 2 * image)
    return tmp_path


def _is_timed_by_the_rules(report, engine):
    assert len(report["samples_ns"]) == TIMING.runs
    assert engine.calls == 1 + TIMING.warmup_runs + TIMING.runs
    assert (report["relative_error"], report["runtime"]) == (0.0, "some 1.0")


def test_candidate_is_timed_as_the_rules_say(setup, monkeypatch):
    engine, opened = Doubling(), []
    monkeypatch.setattr(candidates, "open_candidate", lambda *given: opened.append(given) or engine)
    report = setup / "report.json"
    argv = ["candidates", "executorch", str(setup), "--report", str(report), *TIMING.flags()]
    monkeypatch.setattr(sys, "argv", argv)
    candidates.main()
    assert opened == [("executorch", setup, TIMING.threads)]
    _is_timed_by_the_rules(json.loads(report.read_text()), engine)


def test_server_candidate_is_timed_as_the_plan_says(setup, monkeypatch):
    engine, opened = DoublingSession(), []
    monkeypatch.setattr(server, "_Network", lambda *given: opened.append(given) or engine)
    report = setup / "report.json"
    options = ["--accelerator", "cpu", "--batch", "1", "--report", str(report), *TIMING.flags()]
    server.run_job(["eager", str(setup), *options])
    assert opened == [("eager", setup, "cpu", TIMING.threads)]
    _is_timed_by_the_rules(json.loads(report.read_text()), engine)


def test_modules_that_are_named_in_texts_and_commands_exist():
    files = [ROOT / "Makefile", *(ROOT / "benchmarks").glob("*.py"), *documents()]
    named = {name for path in files for name in re.findall(r"\bbenchmarks\.([a-z]\w*)", path.read_text())}
    assert {"candidates", "int8_conversion", "server"} <= named
    assert [name for name in sorted(named) if importlib.util.find_spec(f"benchmarks.{name}") is None] == []
