"""What a conversion costs: growth with parameters, and the memory of a command with its children."""

from __future__ import annotations

import sys
import tomllib

import pytest

from benchmarks.conversion_cost import PLAN, exponents, run_command
from edgevit.models import get_spec
from edgevit.targets.registry import get_converter

MIB = 2**20
HOLDS = "import sys, time; held = bytearray({mib} * 2**20); time.sleep(1.5)"


def _row(params: int, seconds: float, peak_bytes: int, error: str = ""):
    return {"target": "onnx", "params": params, "seconds": seconds, "peak_bytes": peak_bytes, "error": error}


def test_plan_names_models_and_targets_that_exist():
    plan = tomllib.loads(PLAN.read_text())
    assert plan.keys() == {"models", "targets", "seed"}
    assert [get_spec(name).name for name in plan["models"]] == plan["models"]
    assert [get_converter(name).name for name in plan["targets"]] == plan["targets"]


def test_growth_is_the_power_of_the_parameters():
    rows = [_row(100, 3.0, 50), _row(10, 3.0, 5), _row(1000, 30.0, 500)]
    assert exponents(rows) == {"onnx": {"seconds": 0.5, "peak_bytes": 1.0}}


def test_failed_conversions_do_not_count():
    rows = [_row(10, 1.0, 1), _row(100, 10.0, 10), _row(1000, 1.0, 1, error="out of memory")]
    assert exponents(rows) == {"onnx": {"seconds": 1.0, "peak_bytes": 1.0}}
    assert exponents(rows[:1]) == {}


def test_memory_of_children_counts():
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS.format(mib=200)!r}], check=True)"
    alone, parent = (run_command([sys.executable, "-c", code]).peak_bytes for code in (HOLDS.format(mib=1), child))
    assert parent - alone > 190 * MIB


def test_a_failure_keeps_its_last_words():
    cost = run_command([sys.executable, "-c", "raise SystemExit('one\\nno such model')"])
    assert cost.error == "no such model"
    assert run_command([sys.executable, "-c", "pass"]).error == ""


@pytest.mark.parametrize("words", ["", "\n"])
def test_a_silent_failure_is_one_too(words):
    assert run_command([sys.executable, "-c", f"print({words!r}); raise SystemExit(3)"]).error
