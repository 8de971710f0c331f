"""The server benchmark's plan, its rows from rounds made by hand, and the table made of them."""

from __future__ import annotations

import json

import pytest

from benchmarks.comparison import CONTROL
from benchmarks.server import PLAN, Setting, read_plan, summarize
from benchmarks.tables import speeds
from edgevit.errors import UsageError
from edgevit.spec import Precision

TIMES_MS = {"eager": 8.0, "compile": 4.0, "aotinductor": 2.0, "onnx": 3.0, CONTROL: 8.0}
SLOWDOWNS = (1.0, 1.3, 0.9, 2.0, 1.1, 1.0)  # of the machine, per round: a ratio within a round must not see them
SETTING = Setting("cpu", Precision.FP32, 1e-3)


def _rounds(**changes):
    return [
        {
            name: {
                "runtime": "some 1.0",
                "relative_error": 1e-6,
                "load_average": 0.5,
                "samples_ns": [round(ms * slowdown * 1e6)] * 3,
            }
            | changes.get(name, {})
            for name, ms in TIMES_MS.items()
        }
        for slowdown in SLOWDOWNS
    ]


def test_rates_count_images_and_ratios_are_paired():
    row = summarize(_rounds(), SETTING, 8, 2)
    rates = {entry["candidate"]: entry["images_per_s"] for entry in row["candidates"]}
    assert rates["aotinductor"] == pytest.approx(4 * rates["eager"]) == pytest.approx(8 / (2.0 * 1.05e-3))
    against = {(entry["ours"], entry["against"]): entry for entry in row["ratios"]}
    assert against["aotinductor", "compile"]["low"] == against["aotinductor", "compile"]["high"] == pytest.approx(0.5)
    assert against["onnx", "eager"]["ratio"] == pytest.approx(0.375)
    assert row["control"]["ratio"] == 1
    assert row["flags"] == []


@pytest.mark.parametrize(
    ("change", "cell"),
    [({"relative_error": 0.1}, "wrong"), ({"relative_error": None}, "wrong"), ({"error": "no kernel"}, "failed")],
)
def test_candidate_that_is_wrong_or_failed_has_no_speed(change, cell, tmp_path, monkeypatch):
    row = {"model": "van_b0", "batch": 8, **summarize(_rounds(onnx=change, eager={"load_average": 9}), SETTING, 8, 2)}
    assert {entry["ours"] for entry in row["ratios"]} == {"aotinductor"}
    assert row["flags"] == ["more work than 2 cores in 6 of 6 rounds"]
    result = {"cpu": "Some CPU", "cores": 2, "gpu": None, "rows": [row], "provenance": {"tools": {"torch": "2"}}}
    result["plan"] = {"timing": {"threads": 2, "rounds": 6}}
    (tmp_path / "server.json").write_text(json.dumps(result))
    monkeypatch.setattr("benchmarks.tables.committed.RESULTS", tmp_path)
    line = next(line for line in speeds.server().splitlines() if line.startswith("| van_b0"))
    assert line.endswith(f"| 952.4 | 1904.8 | 3809.5 | {cell} | aotinductor 0.500 [0.500, 0.500] |")


def test_eager_that_differs_from_itself_is_flagged():
    slower = [round(9e6 * slowdown) for slowdown in SLOWDOWNS]
    rounds = _rounds()
    for one, ns in zip(rounds, slower, strict=True):
        one[CONTROL]["samples_ns"] = [ns] * 3
    row = summarize(rounds, SETTING, 8, 2)
    assert row["flags"] == ["the A/A noise control gave [1.125, 1.125]"]
    assert row["control"]["ratio"] == pytest.approx(9 / 8)


def test_committed_plan_is_read_and_an_unknown_key_refused(tmp_path):
    plan = read_plan(PLAN)
    assert plan.batches == (1, 8)
    assert [one.candidates() for one in plan.settings] == [
        ["eager", "compile", "aotinductor", "onnx"],
        ["eager", "compile", "aotinductor"],  # ONNX has no bf16 here
        ["eager", "compile", "aotinductor", "onnx"],
    ]
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.read_text() + "sped = 1\n")
    with pytest.raises(UsageError, match="sped"):
        read_plan(path)
