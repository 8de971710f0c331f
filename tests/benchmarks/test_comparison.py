"""Statistics, thresholds and tables of the rules, from rounds made by hand."""

from __future__ import annotations

import dataclasses
import re

import pytest

from benchmarks.compare_runtimes import RULES
from benchmarks.comparison import (
    CONTROL,
    Operations,
    Threshold,
    judge_conversion,
    judge_thresholds,
    merged,
    read_rules,
    summarize,
)
from benchmarks.tables import speeds
from edgevit.errors import UsageError

# Milliseconds of each candidate relative to the machine's speed in a round, and its output's error.
TIMES = {"edgevit_executorch": 5.0, "edgevit_tflite": 4.0, "executorch": 10.0, "onnx2tf": 8.0, "onnxruntime": 6.0}
SLOWDOWNS = (1.0, 1.3, 0.9, 2.0, 1.1, 1.0, 1.2)  # of the machine, per round: a ratio within a round must not see them


@pytest.fixture
def rules():
    committed = read_rules(RULES)
    timing = dataclasses.replace(committed.timing, rounds=len(SLOWDOWNS))
    thresholds = (
        Threshold(("van_b0",), ("edgevit_executorch",), ("executorch",), 0.56),
        Threshold(("van_b0",), ("edgevit_tflite",), ("onnx2tf",), 0.45),
        Threshold(("van_b0",), ("edgevit_executorch", "edgevit_tflite"), ("executorch", "onnxruntime"), 0.95),
    )
    recorded = Operations(("executorch",), ("onnx2tf",), ("onnxruntime",), 1, 1)
    return dataclasses.replace(
        committed, candidates=tuple(TIMES), timing=timing, operations=recorded, thresholds=thresholds
    )


def _report(ms, slowdown, *, error=1e-6, load=0.5):
    samples = [round(ms * slowdown * jitter * 1e6) for jitter in (0.99, 1.0, 1.02)]
    return {
        "runtime": "some 1.0",
        "load_ns": 10**7,
        "first_ns": 2 * 10**7,
        "relative_error": error,
        "load_average": load,
        "samples_ns": samples,
    }


def _rounds(**changed):
    """Rounds in which `changed` candidates have other reports."""
    rounds = [{name: _report(ms, slow) for name, ms in TIMES.items()} for slow in SLOWDOWNS]
    for one, slow in zip(rounds, SLOWDOWNS, strict=True):
        one[CONTROL] = _report(TIMES["edgevit_executorch"], slow)
        one |= {name: change(slow) for name, change in changed.items()}
    return rounds


def _row(summary, name):
    return next(row for row in summary["candidates"] if row["candidate"] == name)


def test_ratio_is_paired_within_rounds(rules):
    summary = summarize(_rounds(), rules, cores=2)
    ratio = next(r for r in summary["ratios"] if (r["ours"], r["against"]) == ("edgevit_executorch", "executorch"))
    assert ratio["ratio"] == pytest.approx(0.5, rel=1e-6)
    assert ratio["high"] - ratio["low"] < 1e-6  # though the machine's speed changed by a factor of two
    assert summary["control"]["ratio"] == pytest.approx(1.0)
    assert summary["flags"] == []


def test_median_is_that_of_round_medians(rules):
    assert _row(summarize(_rounds(), rules, cores=2), "executorch")["median_ms"] == pytest.approx(10 * 1.1)


def test_thresholds_are_met_and_missed_by_their_limit(rules):
    judged = judge_thresholds("van_b0", summarize(_rounds(), rules, cores=2), rules.thresholds)
    assert [row["met"] for row in judged] == [True, False, True]
    fastest = judged[2]
    assert (fastest["ours"], fastest["against"]) == ("edgevit_tflite", "onnxruntime")
    assert fastest["ratio"] == pytest.approx(4 / 6)
    assert judge_thresholds("vt_resnet18", summarize(_rounds(), rules, cores=2), rules.thresholds) == []


def test_wrong_output_has_no_speed(rules):
    rounds = _rounds(onnx2tf=lambda slow: _report(8.0, slow, error=1.2))
    summary = summarize(rounds, rules, cores=2)
    assert _row(summary, "onnx2tf")["wrong"]
    assert _row(summary, "onnx2tf")["relative_error"] == 1.2
    assert not any(ratio["against"] == "onnx2tf" for ratio in summary["ratios"])
    assert judge_thresholds("van_b0", summary, rules.thresholds)[1]["met"] is None


def test_one_wrong_round_is_enough(rules):
    rounds = _rounds()
    rounds[4]["onnx2tf"]["relative_error"] = None  # another shape, or not finite
    assert _row(summarize(rounds, rules, cores=2), "onnx2tf")["wrong"]


def test_failed_candidate_stays_as_a_row(rules):
    summary = summarize(_rounds(onnx2tf=lambda slow: {"error": "ValueError: no"}), rules, cores=2)
    assert _row(summary, "onnx2tf")["error"] == "ValueError: no"
    assert "median_ms" not in _row(summary, "onnx2tf")


def test_control_that_is_slower_than_itself_is_flagged(rules):
    summary = summarize(_rounds(control=lambda slow: _report(5.3, slow)), rules, cores=2)
    assert any("A/A noise control" in flag for flag in summary["flags"])


def test_busy_machine_and_few_rounds_are_flagged(rules):
    rounds = _rounds(onnxruntime=lambda slow: _report(6.0, slow, load=3.5))[:4]
    flags = summarize(rounds, rules, cores=2)["flags"]
    assert flags == ["4 rounds are too few for a 95 % interval", "more work than 2 cores in 4 of 4 rounds"]


def test_conversions_are_summed_per_round(rules):
    seconds = {"edgevit": 20.0, "executorch": 20.0, "coreml": 10.0, "onnx2tf": 40.0}
    rounds = [{name: value * slow for name, value in seconds.items()} for slow in SLOWDOWNS]
    row = judge_conversion("van_b0", rounds, rules.conversion, [0.5] * len(rounds))
    assert row["ratio"] == pytest.approx(20 / 70)
    assert row["met"] is True
    assert row["baseline_s"]["onnx2tf"] == pytest.approx(44.0)


def test_committed_rules_are_valid():
    rules = read_rules(RULES)
    assert {one.limit for one in rules.thresholds if one.models == ("van_b0",)} == {0.56, 0.58, 0.95}
    assert rules.conversion.limit == 0.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('control = "edgevit_executorch"', 'control = "tvm"', "unknown candidate 'tvm'"),
        ("seed = 0", "sed = 0", "sed"),
        ("runs = 20", "runs = 20\nwarmups = 3", "warmups"),
        ('baseline = ["executorch"', 'baseline = ["tvm"', "unknown conversion 'tvm'"),
        ('ours = ["edgevit_executorch"]\n', "", "limit"),
        ('models = ["vt_resnet18"]', 'models = ["van_b9"]', "unknown model 'van_b9'"),
    ],
)
def test_rules_with_a_mistake_are_refused(tmp_path, old, new, message):
    text = RULES.read_text()
    assert old in text
    (tmp_path / "compare-runtimes.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=re.escape(message)):
        read_rules(tmp_path / "compare-runtimes.toml")


def test_table_shows_wrong_failed_and_unjudged(rules, monkeypatch):
    changed = {
        "onnx2tf": lambda slow: _report(1.0, slow, error=1.2),
        "onnxruntime": lambda slow: {"error": "ValueError: no"},
    }
    summary = {"model": "van_b0", **summarize(_rounds(**changed), rules, cores=2)}
    result = {
        "rules": dataclasses.asdict(rules),
        "cpu": "a processor",
        "cores": 2,
        "provenance": {"tools": {"torch": "2.13.0"}},
        "peers": {"onnx2tf": "1.28.8"},
        "models": [summary],
        "thresholds": judge_thresholds("van_b0", summary, rules.thresholds),
        "conversion": [
            judge_conversion(
                "van_b0", [{"edgevit": 20, "executorch": 20, "coreml": 10, "onnx2tf": 40}], rules.conversion, [0.5]
            ),
            {"model": "vt_resnet18", "limit": 0.5, "met": None, "error": "onnx2tf: ValueError: no"},
        ],
    }
    monkeypatch.setattr(speeds, "committed", lambda name: result)
    lines = speeds.compare_runtimes().splitlines()
    assert "| **edgevit, TFLite** | 4.40 |" in lines
    assert "| TFLite by onnx2tf | WRONG, rel. error 1.2e+00 |" in lines
    assert "| ONNX Runtime | failed |" in lines
    assert "| van_b0 | edgevit_executorch | executorch | 0.500 [0.500, 0.500] | 0.56 | met |" in lines
    assert any("edgevit_tflite | onnx2tf | – | 0.45 | not judged" in line for line in lines)
    baseline = "executorch 20 s + coreml 10 s + onnx2tf 40 s, one after the other"
    assert f"| van_b0 | `convert --target all`, 20 s | {baseline} | 0.286 [0.286, 0.286] | 0.50 | met |" in lines
    assert "| vt_resnet18 | `convert --target all` | | | 0.50 | failed: onnx2tf: ValueError: no |" in lines
    assert any("ONNX Runtime failed: ValueError: no" in line for line in lines)


def _result(rules, times):
    """A result of which each part says, by its time, which run it is of."""
    rows = [{"model": model, "time": time} for model, time in times.items()]
    parts = dict.fromkeys(("models", "thresholds", "conversion", "operations"), rows)
    return {"rules": dataclasses.asdict(rules), "cpu": f"of {times}", **parts}


def test_models_compared_again_replace_themselves_alone(rules):
    first, second, *_ = rules.models
    both = merged(_result(rules, {first: 1, second: 1}), _result(rules, {first: 2}))
    assert both["models"] == both["operations"] == [{"model": first, "time": 2}, {"model": second, "time": 1}]
    assert both["cpu"] == _result(rules, {first: 2})["cpu"]


def test_results_by_other_rules_are_not_merged(rules):
    other = dataclasses.replace(rules, seed=rules.seed + 1)
    with pytest.raises(UsageError, match="another seed"):
        merged(_result(other, {"van_b0": 1}), _result(rules, {"van_b0": 2}))
