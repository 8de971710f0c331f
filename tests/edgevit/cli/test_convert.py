"""`edgevit convert --explain`: what it says about each pass and each target."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from edgevit.artifacts.artifact import load_artifact
from edgevit.cli.convert import explanation
from edgevit.cli.main import main
from edgevit.contract.manifest import AppliedPass, GraphFacts, Lowering
from tests.edgevit.contract.test_manifest import make_manifest

_MODEL = """
from torch import nn

def build(num_classes=4):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Dropout(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def _convert(capsys, tmp_path, *options: str) -> str:
    """Convert the network above for ExecuTorch; returns stdout."""
    model = tmp_path / "net.py"
    model.write_text(_MODEL)
    arguments = ["convert", f"{model}:build", "-t", "executorch", "--input-size", "32", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *options])
        raise SystemExit(0)
    captured = capsys.readouterr()
    assert not ended.value.code, captured.err
    settings = captured.err.split("under the settings of phones, executorch")[1].splitlines()[1:]
    assert len(settings) == 1 + 12  # on stderr, whatever stands on stdout
    return captured.out


def test_explain_shows_each_pass_in_numbers_and_what_the_target_made(capsys, tmp_path):
    out = _convert(capsys, tmp_path, "--explain")
    manifest = load_artifact(tmp_path / "out" / "net-fp32-executorch").manifest
    table, *_ = out.split("rewritten for executorch:\n")[1].split("\n\n")
    header, *rows = table.splitlines()
    assert header.split()[:3] == ["pass", "places", "operations"]
    assert [row.split()[0] for row in rows] == [step.name for step in manifest.deploy]
    by_name = {step.name: step for step in manifest.deploy}
    assert {"fold_affine", "split_depthwise"} <= set(by_name)
    for row in rows:
        step = by_name[row.split()[0]]
        assert f"{step.before.operations} -> {step.after.operations}" in row
        assert row.endswith(", ".join(step.places))
    split = next(row for row in rows if row.startswith("split_depthwise"))
    assert f"49 -> {by_name['split_depthwise'].after.depthwise_taps}" in split
    nodes = manifest.lowering.nodes
    last = out.splitlines()[-1]
    assert re.fullmatch(rf"executorch: {nodes} operations, {nodes} delegated in 1 region\(s\), 1 transpose\(s\)", last)


def test_without_explain_only_the_artifact_is_shown(capsys, tmp_path):
    out = _convert(capsys, tmp_path)
    assert len(out.splitlines()) == 2
    assert "rewritten" not in out


def test_json_is_one_document_with_the_same_facts(capsys, tmp_path):
    (document,) = json.loads(_convert(capsys, tmp_path, "--explain", "--json"))
    steps = {step["name"]: step for step in document["deploy"]}
    assert steps["split_depthwise"]["places"] == ["3"]
    assert steps["split_depthwise"]["before"]["depthwise_taps"] == 49
    assert document["lowering"]["regions"] == 1


_BEFORE, _AFTER = GraphFacts(40, 1_250_000, 49, 2), GraphFacts(31, 1_250_000, 25, 0)
_PASS = AppliedPass("fold_affine", 5, 2.5e-7, ("a", "b", "c", "d", "e"), _BEFORE, _AFTER)


def _manifest(target: str, applied: tuple[AppliedPass, ...] = (_PASS,), **lowering):
    return dataclasses.replace(make_manifest(), target=target, deploy=applied, lowering=Lowering(30, **lowering))


def test_targets_with_the_same_passes_share_a_table():
    other = dataclasses.replace(_PASS, name="fold_constants")
    lines = explanation([_manifest("executorch"), _manifest("coreml", (other,)), _manifest("tflite")])
    assert [line for line in lines if line.startswith("rewritten")] == [
        "rewritten for executorch, tflite:",
        "rewritten for coreml:",
    ]
    assert sum(line.startswith("fold_affine") for line in lines) == 1


def test_numbers_that_stay_are_shown_once_and_long_lists_of_places_are_cut():
    row = next(line for line in explanation([_manifest("executorch")]) if line.startswith("fold_affine"))
    cells = re.split(r"\s{2,}", row)
    assert cells == ["fold_affine", "5", "40 -> 31", "1.2", "49 -> 25", "2 -> 0", "2e-07", "a, b, c and 2 more"]


def test_passes_of_an_older_manifest_have_no_numbers():
    lines = explanation([_manifest("executorch", (AppliedPass("fold_conv_bn", 4, 1e-7),))])
    row = next(line for line in lines if line.startswith("fold_conv_bn"))
    assert row.split() == ["fold_conv_bn", "4", "1e-07"]


def test_nothing_rewritten_is_said():
    assert explanation([_manifest("executorch", ())])[:3] == ["", "rewritten for executorch:", "nothing"]


@pytest.mark.parametrize(
    ("lowering", "line"),
    [
        ({}, "executorch: 30 operations"),
        ({"transposes": 0}, "executorch: 30 operations, 0 transpose(s)"),
        (
            {"delegated": 27, "regions": 2, "transposes": 3, "outside": {"aten.exp.default": 3}},
            "executorch: 30 operations, 27 delegated in 2 region(s), 3 transpose(s), 3 aten.exp.default outside",
        ),
    ],
)
def test_lowering_is_one_line_of_what_is_known(lowering, line):
    assert explanation([_manifest("executorch", **lowering)])[-1] == line
