"""The committed results keep the promises that README makes of them."""

from __future__ import annotations

import itertools
import json
import re
from xml.etree import ElementTree

import pytest

from benchmarks.conversion_matrix import read_matrix
from benchmarks.int8 import EXPERIMENTS, read_experiments
from benchmarks.kernel_costs import with_costs
from benchmarks.plots import PLOT, draw
from benchmarks.tables import accuracy, render
from benchmarks.tables.committed import RESULTS, ROOT
from edgevit.deploy.cost_model import FILE, read_costs
from edgevit.deploy.passes.split_depthwise import cheapest_split
from edgevit.errors import UsageError
from edgevit.models import get_spec, iter_specs
from edgevit.spec import Tier

TIERS = {"conversion": Tier.EDGE, "server-conversion": Tier.SERVER}
TARGETS = {"conversion": {"executorch", "tflite", "coreml"}, "server-conversion": {"onnx", "aotinductor"}}
PRECISIONS = {"conversion": {"fp32", "fp16"}, "server-conversion": {"fp32"}}
_DELEGATING = ("executorch", "tflite")


def _names(matrix):
    return {spec.name for spec in iter_specs() if spec.tier is TIERS[matrix]}


@pytest.fixture(scope="module")
def rows():
    result = json.loads((RESULTS / "conversion.json").read_text())
    return {(row["model"], row["target"], row["precision"]): row for row in result["rows"]}


def _measured(matrix):
    return {
        (row["model"], row["target"], row["precision"])
        for row in json.loads((RESULTS / f"{matrix}.json").read_text())["rows"]
    }


@pytest.mark.parametrize("matrix", TIERS)
def test_a_matrix_has_every_model_of_its_tier_in_every_target(matrix):
    assert set(read_matrix(ROOT / "benchmarks" / f"{matrix}.toml")["models"]) == _names(matrix)
    assert _measured(matrix) == set(itertools.product(_names(matrix), TARGETS[matrix], PRECISIONS[matrix]))


@pytest.mark.parametrize("matrix", TIERS)
def test_every_file_of_a_matrix_agrees_with_its_checkpoint(matrix):
    for row in json.loads((RESULTS / f"{matrix}.json").read_text())["rows"]:
        assert row["error"] == ""
        assert row["input_size"] == get_spec(row["model"]).inputs[0].shape[-1]
        assert row["parity"]["executed"]
        if row["precision"] == "fp32":
            assert row["parity"]["max_relative_error"] <= 1e-5
        else:
            assert row["parity"]["snr_db"] >= 50
        if row["target"] == "tflite":
            assert row["checks"]["custom ops"] == "0"
        if row["target"] == "coreml":
            assert row["parity"]["runtime"].startswith("reference interpreter")
            assert row["checks"]["precision"] == row["precision"]
            assert row["checks"]["specification version"] == "8"
            assert "float32" in row["checks"]["outputs"]


def test_compressed_core_ml_packages_are_above_their_floors():
    rows = json.loads((RESULTS / "coreml-weights.json").read_text())["rows"]
    assert len({row["model"].split("_")[0] for row in rows}) == 4  # one of each family
    for row in rows:
        assert row["error"] == ""
        assert row["parity"]["snr_db"] >= row["tolerance"]["min_snr_db"]
        assert "fp32 reference build" in row["checks"]


def test_demo_keeps_its_accuracy():
    artifacts = json.loads((RESULTS / "demo.json").read_text())["artifacts"]
    assert {a["target"] for a in artifacts} == {"executorch", "coreml", "tflite"}
    for artifact in artifacts:
        accuracy = artifact["accuracy"]
        assert accuracy["checkpoint"] >= 0.95
        if accuracy["artifact"] is not None:
            assert 100 * (accuracy["checkpoint"] - accuracy["artifact"]) <= 0.3


def test_table_replaces_what_somebody_typed():
    page = (ROOT / "docs/benchmarks/conversion.md").read_text()
    typed = page.replace("| van_b0 | 224 |", "| van_b0 | 225 |", 1)
    assert typed != page
    assert render(typed) == page


def test_plot_is_drawn_from_the_result():
    assert PLOT.read_text() == draw(json.loads((RESULTS / "compare-runtimes.json").read_text()))
    assert "benchmarks/results/compare-runtimes.svg" in (ROOT / "docs/benchmarks/compare-runtimes.md").read_text()


def test_plot_names_what_has_no_speed():
    rows = [
        {"candidate": "edgevit_tflite", "title": "edgevit, TFLite", "error": "", "wrong": False, "median_ms": 2.0},
        {"candidate": "onnx2tf", "title": "TFLite by onnx2tf", "error": "", "wrong": True, "median_ms": 0.5},
        {"candidate": "openvino", "title": "Open<VINO>", "error": "no", "wrong": False},
    ]
    drawn = draw({"models": [{"model": "van_b0", "candidates": [row | {"rounds_ms": [1.9, 2.1]} for row in rows]}]})
    assert [row.text for row in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")] == [
        "van_b0, milliseconds", "edgevit, TFLite", "2.00", "TFLite by onnx2tf", "wrong output", "Open<VINO>", "failed",
    ]  # fmt: skip


def test_unknown_key_in_a_matrix_is_an_error(tmp_path):
    (tmp_path / "m.toml").write_text('models = []\nseed = 0\nprecision = "fp32"\n')
    with pytest.raises(UsageError, match="precisions"):
        read_matrix(tmp_path / "m.toml")


def test_deploy_decides_by_the_costs_that_were_measured():
    measured = json.loads((RESULTS / "kernel-costs.json").read_text())["costs_ps"]
    assert with_costs(FILE.read_text(), measured) == FILE.read_text()


def test_van_kernel_is_split_as_documented():
    pieces = cheapest_split(7, 7, read_costs("xnnpack"))
    assert sorted((rows.count, columns.count) for rows, columns in pieces) == [(3, 7), (4, 2), (4, 5)]
    assert "VAN's 7x7 becomes 4x5 + 3x7 + 4x2" in (ROOT / "docs/design/deploy-passes.md").read_text()


def test_int8_files_in_integer_arithmetic_compute_what_was_trained():
    models = json.loads((RESULTS / "int8.json").read_text())["models"]
    assert {model["model"] for model in models} == set(read_experiments(EXPERIMENTS))
    for model in models:
        rows = {row["form"]: row for row in model["rows"]}
        made = {"float", "ptq", "qat"} | ({"budget"} if model["experiment"].get("max_drop") else set())
        assert rows.keys() == {*made, *model["experiment"]["forms"]}
        for form in ("executorch", "tflite", "coreml"):
            assert rows[form]["agreement"] >= 0.995
            assert rows[form]["snr_db"] is None or rows[form]["snr_db"] >= 35
            assert rows[form]["drop"]["percentage_points"] <= (1.0 if model["metric"] == "mIoU" else 0.5)
            assert rows[form]["size_ratio"] <= 0.30
        exact = [share for pair, share in model["agreement"].items() if "coreml-fp16" not in pair.split(", ")]
        assert len(exact) == 3
        assert min(exact) >= 0.99
        for form in model["experiment"]["forms"]:
            if "refused" in rows[form]:
                assert form == "coreml-fp16"
                continue
            numbers = re.findall(r"(\d+) of (\d+) ", rows[form]["checks"]["qparams"])
            assert len(numbers) == 3  # weights, activations, layers in int8
            assert all(done == total for done, total in numbers)


def test_refused_file_is_a_row_that_says_why():
    message = "van_b0-int8-coreml does not compute what its checkpoint computes: SNR 24.6 dB, at least 25 dB needed"
    shown = accuracy._int8_row({"model": "van_b0"}, {"form": "coreml-fp16", "refused": message})
    assert shown.endswith("refused: SNR 24.6 dB, at least 25 dB needed | – |")


def test_transposes_in_the_documents_are_those_of_the_matrix(rows):
    recorded = {"van_b0": 0, "mobile_former_294m": 0, "segnetr_32": 34, "vt_resnet18": 9}
    assert {model: rows[model, "tflite", "fp32"]["lowering"]["transposes"] for model in recorded} == recorded
    assert all(rows[model, target, "fp32"]["lowering"]["regions"] == 1 for model in recorded for target in _DELEGATING)
