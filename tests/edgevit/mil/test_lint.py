"""Each rule on a package that breaks it, and silence on one that does not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from converters.coreml.converter import CONVERTER
from edgevit.cli.lint import lint as lint_command
from edgevit.compat.coremltools import open_coremltools
from edgevit.contract.manifest import Manifest
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ContractError
from edgevit.export.export_program import export
from edgevit.mil.lint import Finding, Level, lint
from edgevit.mil.opsets import INTRODUCED, OPSETS
from edgevit.spec import Precision, TensorSpec
from tests.edgevit.contract.test_manifest import make_manifest
from tests.edgevit.mil.packages import PROGRAM, Builder, small
from tests.fakes import make_provenance
from tests.tiny import TinyClassifier, classifier_spec, seeded

LABELS = ("ant", "bee", "cat", "dog")


def _lint(build: Builder, tmp_path, **options) -> list[Finding]:
    return lint(build.write(tmp_path / "m.mlpackage"), **options)


def _one(findings: list[Finding], rule: str, level: Level) -> Finding:
    matching = [finding for finding in findings if (finding.rule, finding.level) == (rule, level)]
    assert len(matching) == 1, findings
    return matching[0]


def _rules(findings: list[Finding], level: Level) -> set[str]:
    return {finding.rule for finding in findings if finding.level is level}


def _operation(build: Builder, name: str):
    return next(operation for operation in build.block.operations if operation.outputs[0].name == name)


def test_a_sound_package_has_no_errors_and_says_its_facts(tmp_path):
    findings = _lint(small(), tmp_path)
    assert not _rules(findings, Level.ERROR)
    assert _rules(findings, Level.WARNING) == {"engine-fp32", "engine-linear"}
    assert "iOS17" in _one(findings, "spec-version", Level.INFO).message
    assert _one(findings, "precision", Level.INFO).message == "fp32: 4 floating-point ops, 0 casts"
    size = _one(findings, "size", Level.INFO).message
    assert "4 ops" in size
    assert "0 % of the weights compressed" in size
    assert "licence" in _one(findings, "metadata", Level.INFO).message


def test_findings_come_errors_first(tmp_path):
    build = small(version=7)
    levels = [finding.level for finding in _lint(build, tmp_path)]
    assert levels == sorted(levels, key=list(Level).index)
    assert levels[0] is Level.ERROR


def test_op_set_newer_than_the_declared_version(tmp_path):
    finding = _one(_lint(small(version=7), tmp_path), "op-set", Level.ERROR)
    assert finding.message == "CoreML7 needs iOS17, the package declares older"


def test_ops_newer_than_the_op_set_and_ops_that_do_not_exist(tmp_path):
    build = small()
    _operation(build, "activated").type = "scaled_dot_product_attention"
    _operation(build, "pooled").type = "make_coffee"
    findings = _lint(build, tmp_path)
    newer = _one(findings, "op-newer-than-op-set", Level.ERROR)
    assert newer.message == "CoreML7 does not have scaled_dot_product_attention (iOS18)"
    assert "make_coffee (1)" in _one(findings, "unknown-op", Level.ERROR).message


def test_an_op_that_the_interpreter_does_not_have_is_a_warning(tmp_path):
    build = small()
    _operation(build, "activated").type = "lstm"
    assert "lstm" in _one(_lint(build, tmp_path), "not-verifiable", Level.WARNING).message


def _half_program() -> Builder:
    build = Builder()
    build.input("image", (1, 3, 8, 8))
    build.op("cast", "half", (1, 3, 8, 8), "fp16", x="image")
    build.op("relu", "active", (1, 3, 8, 8), "fp16", x="half")
    build.op("cast", "logits", (1, 3, 8, 8), x="active")
    build.output("logits", (1, 3, 8, 8))
    return build


def test_fp16_program_with_casts_at_its_ends_only_is_clean(tmp_path):
    findings = _lint(_half_program(), tmp_path)
    assert not _rules(findings, Level.ERROR) | _rules(findings, Level.WARNING)
    assert _one(findings, "precision", Level.INFO).message == "fp16: 1 floating-point ops, 2 casts"


def test_fp32_float_fallback_and_needless_casts_in_an_fp16_program(tmp_path):
    build = _half_program()
    build.op("cast", "single", (1, 3, 8, 8), x="active")
    build.op("exp", "alone", (1, 3, 8, 8), x="single")
    build.op("cast", "back", (1, 3, 8, 8), "fp16", x="alone")
    findings = _lint(build, tmp_path)
    float_fallback = _one(findings, "fp32-float-fallback", Level.WARNING)
    assert (float_fallback.message, float_fallback.where) == (
        "1 op(s) compute in fp32 inside an fp16 program: exp",
        "main: alone",
    )
    assert _one(findings, "casts", Level.WARNING).message == "4 casts where 2 would serve inputs and outputs"


def test_rank_6_and_dynamic_dimensions(tmp_path):
    build = small()
    build.op("reshape", "high", (1, 1, 1, 1, 1, 4), x="logits")
    build.op("relu", "late", (1, 4), x="logits")
    _operation(build, "late").outputs[0].type.tensorType.dimensions[0].unknown.variadic = False
    findings = _lint(build, tmp_path)
    assert _one(findings, "rank", Level.ERROR).where == "main: high"
    assert _one(findings, "dynamic-shape", Level.WARNING).where == "main: late"


def test_description_that_disagrees_with_the_function(tmp_path):
    build = small()
    feature = build.spec.description.output[0]
    feature.type.multiArrayType.dataType = 65552
    feature.type.multiArrayType.shape[:] = [1, 5]
    build.spec.description.input[0].name = "photo"
    messages = [f.message for f in _lint(build, tmp_path) if f.rule == "interface"]
    assert messages == [
        "input 'image' is missing in the description",
        "input 'photo' is missing in the function",
        "output 'logits' is described as float16, the function has fp32",
        "output 'logits' is described as (1, 5), the function has (1, 4)",
    ]


def test_image_inputs_are_compared_by_size(tmp_path):
    build = small()
    image = build.spec.description.input[0].type.imageType
    image.width, image.height = 8, 8
    assert "interface" not in _rules(_lint(build, tmp_path), Level.ERROR)
    image.width = 9
    assert "image of 9x8" in _one(_lint(build, tmp_path), "interface", Level.ERROR).message


def test_outputs_named_after_graph_nodes(tmp_path):
    build = _half_program()
    build.op("relu", "var_12", (1, 3, 8, 8), "fp16", x="active")
    build.output("var_12", (1, 3, 8, 8), "fp16")
    findings = _lint(build, tmp_path)
    assert "'var_12'" in _one(findings, "output-name", Level.WARNING).message
    assert "'var_12' is float16" in _one(findings, "half-interface", Level.INFO).message


@pytest.mark.parametrize(
    ("labels", "level", "message"),
    [
        ('["a", "b", "c"]', Level.ERROR, "3 labels, but the output has 4 classes"),
        ('["a", "b", "c", "a"]', Level.WARNING, "more than once: a"),
        ("{", Level.ERROR, "no JSON list"),
        ("[1, 2, 3, 4]", Level.ERROR, "no JSON list"),
    ],
)
def test_labels_against_the_width_of_the_output(tmp_path, labels, level, message):
    build = small()
    build.spec.description.metadata.userDefined["edgevit.labels"] = labels
    assert message in _one(_lint(build, tmp_path), "labels", level).message


def test_classes_of_a_classifier_op_against_its_probabilities(tmp_path):
    build = small()
    build.const("classes", np.array(["ant", "bee", "cat"]))
    build.op("classify", "answer", (), "string", probabilities="logits", classes="classes")
    assert _one(_lint(build, tmp_path), "labels", Level.ERROR).message == "3 labels for 4 probabilities"


@pytest.mark.parametrize(
    ("number", "rule", "level"),
    [
        (np.nan, "not-a-number", Level.ERROR),
        (-np.inf, "infinite", Level.ERROR),
        (1e6, "fp16-range", Level.INFO),
    ],
)
def test_weights_that_are_no_proper_numbers(tmp_path, number, rule, level):
    build = small()
    weight = np.zeros((1, 4), np.float32)
    weight[0, 2] = number
    build.op("mul", "scaled", (1, 4), x="logits", y=build.const("odd", weight, blob=True))
    assert _one(_lint(build, tmp_path), rule, level).where == "main: odd"


def test_infinite_values_of_a_mask_are_a_warning(tmp_path):
    build = small()
    mask = np.array([[0, -np.inf, 0, 0]], np.float32)
    build.op("add", "masked", (1, 4), x="logits", y=build.const("mask", mask))
    assert _one(_lint(build, tmp_path), "infinite", Level.WARNING).where == "main: mask"


def test_values_beyond_fp16_in_an_fp16_program_are_a_warning(tmp_path):
    build = _half_program()
    build.const("large", np.array([7e4], np.float32))
    assert _one(_lint(build, tmp_path), "fp16-range", Level.WARNING).where == "main: large"


def test_weights_outside_the_file_are_listed_each(tmp_path):
    build = small()
    del build.weights[200:]
    findings = [finding for finding in _lint(build, tmp_path) if finding.rule == "constant"]
    assert [finding.where for finding in findings] == ["main: kernel", "main: bias", "main: head"]
    assert all("ends at" in finding.message for finding in findings)


def test_value_of_another_type_than_declared(tmp_path):
    build = small()
    _operation(build, "bias").outputs[0].type.tensorType.dimensions[0].constant.size = 7
    assert _one(_lint(build, tmp_path), "constant-type", Level.ERROR).where == "main: bias"


def test_weights_that_nothing_uses(tmp_path):
    build = small()
    build.weights += bytes(100_000)
    assert "bytes of the weight file" in _one(_lint(build, tmp_path), "unused-weights", Level.WARNING).message


def test_each_function_is_checked_and_shared_weights_count_once(tmp_path):
    build = small()
    kernel = _operation(build, "kernel")
    build.begin("second")
    build.block.operations.add().CopyFrom(kernel)
    build.op("make_tea", "tea", (1,), x="kernel")
    build.spec.description.defaultFunctionName = "main"
    findings = _lint(build, tmp_path)
    assert _one(findings, "functions", Level.INFO).message == "2 functions: main, second"
    assert _one(findings, "unknown-op", Level.ERROR).where == "second"
    assert "unused-weights" not in _rules(findings, Level.WARNING)


def test_default_and_described_functions_must_exist(tmp_path):
    build = small()
    build.spec.description.defaultFunctionName = "gone"
    build.spec.description.functions.add(name="other")
    messages = [f.message for f in _lint(build, tmp_path) if f.rule == "functions"]
    assert messages == ["the default function 'gone' does not exist", "described or defined, but not both: main, other"]


def test_compressed_share_counts_bytes(tmp_path):
    build = Builder()
    build.input("image", (1,))
    build.const("small", np.zeros(3000, np.int8), blob=True)
    build.const("large", np.zeros(250, np.float32), blob=True)
    assert "75 % of the weights compressed" in _one(_lint(build, tmp_path), "size", Level.INFO).message


def test_engine_hints_name_their_source(tmp_path):
    build = small()
    build.op("gather", "picked", (1, 4), x="logits", indices="axes")
    fix = _one(_lint(build, tmp_path), "engine-gather", Level.WARNING)
    assert "not checked" in fix.message
    assert fix.where == "main: picked"


def _manifest(**changes) -> Manifest:
    manifest = make_manifest()
    facts = {
        "target": "coreml",
        "precision": Precision.FP32,
        "inputs": (TensorSpec("image", (1, 3, 8, 8)),),
        "outputs": (TensorSpec("logits", (1, 4)),),
        "labels": LABELS,
        "provenance": make_provenance(options={"deployment_target": "iOS17"}),
    }
    return dataclasses.replace(manifest, **facts | changes)


def test_a_manifest_that_agrees_adds_nothing(tmp_path):
    assert _lint(small(), tmp_path, manifest=_manifest()) == _lint(small(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"precision": Precision.FP16}, "precision"),
        ({"labels": ("bee", "ant", "cat", "dog")}, "labels"),
        ({"inputs": (TensorSpec("image", (1, 3, 9, 9)),)}, "inputs"),
        ({"outputs": (TensorSpec("scores", (1, 4)),)}, "outputs"),
        ({"outputs": (TensorSpec("logits", (1, 4), "float16"),)}, "outputs"),
        ({"provenance": make_provenance(options={"deployment_target": "iOS16"})}, "deployment target"),
    ],
)
def test_a_manifest_that_disagrees_is_an_error_per_fact(tmp_path, changes, fact):
    finding = _one(_lint(small(), tmp_path, manifest=_manifest(**changes)), "manifest", Level.ERROR)
    assert finding.message.startswith(f"{fact}: the package has")


def _run(*arguments: str):
    app = typer.Typer()
    app.command()(lint_command)
    return CliRunner().invoke(app, list(arguments))


def test_command_prints_a_table_or_json_and_fails_on_errors(tmp_path):
    good = small().write(tmp_path / "good.mlpackage")
    shown = _run(str(good))
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[0].split() == ["level", "rule", "where", "finding"]
    document = json.loads(_run(str(good), "--json").stdout)
    assert {"level", "rule", "message", "where"} == set(document["findings"][0])
    bad = small(version=7).write(tmp_path / "bad.mlpackage")
    failed = _run(str(bad))
    assert isinstance(failed.exception, ContractError)
    assert "op-set" in failed.stdout
    (bad / PROGRAM).unlink()
    assert isinstance(_run(str(bad)).exception, ContractError)


def test_table_of_ops_is_coremltools_own():
    open_coremltools()
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    first = {name: max(6, min(version.value for version in forms)) for name, forms in SSAOpRegistry.core_ops.items()}
    first.pop("_const_symbolic")  # exists during conversion only
    written_by_passes = {"coreml_update_state", "write_state"}
    assert first == {name: version for name, version in INTRODUCED.items() if name not in written_by_passes}
    assert set(INTRODUCED.values()) <= set(OPSETS.values())


@pytest.fixture(scope="module")
def program():
    """TinyClassifier, exported in either precision."""
    module, _ = deploy(seeded(TinyClassifier), classifier_spec())
    return lambda precision: export(module, classifier_spec(), precision=precision, labels=(*LABELS, "eel"))


@pytest.mark.parametrize(
    "precision", [Precision.FP32, Precision.FP16]
)  # int8 needs qparams: tests/edgevit/conversion/test_int8.py
def test_what_our_converter_writes_is_clean_and_agrees_with_its_manifest(program, tmp_path, precision):
    options = CONVERTER.Options(author="Ada", license="MIT", model_version="1")
    result = CONVERTER.convert(program(precision), options, tmp_path)
    manifest = _manifest(
        precision=precision,
        inputs=result.inputs,
        outputs=result.outputs,
        labels=(*LABELS, "eel"),
        provenance=make_provenance(options=dataclasses.asdict(options)),
        model=dataclasses.replace(make_manifest().model, name="tiny_classifier"),
    )
    findings = lint(tmp_path / result.entry, manifest=manifest)
    assert not _rules(findings, Level.ERROR)
    assert not {rule for rule in _rules(findings, Level.WARNING) if not rule.startswith("engine-")}
    assert f"{precision.value}: " in _one(findings, "precision", Level.INFO).message
