"""The manifest: what is written is what is read, and a broken one is refused with its place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edgevit.contract.manifest import (
    AppliedPass,
    Classifier,
    Executed,
    FileEntry,
    Golden,
    GraphFacts,
    Lowering,
    Manifest,
    ModelFacts,
    NotExecuted,
    Outcome,
    ReferenceFacts,
    SettingsRun,
    Tolerance,
    read_manifest,
    spec_from_json,
    spec_to_json,
)
from edgevit.contract.raw_report import Runtime
from edgevit.contract.schema import validate
from edgevit.data.preprocess import normalize_table
from edgevit.errors import ContractError
from edgevit.spec import Layout, Precision, Preprocess, Task, TensorSpec, class_logits, image_input
from tests.fakes import make_provenance
from tests.tiny import classifier_spec

HASH = "0" * 64


def make_manifest() -> Manifest:
    preprocess = Preprocess.for_input(32)
    return Manifest(
        name="net-fp32-executorch",
        model=ModelFacts("net", Task.CLASSIFY, "edge", 5, 100, 200, "a paper"),
        target="executorch",
        precision=Precision.FP32,
        entry="model.pte",
        inputs=image_input(32),
        outputs=class_logits(5),
        preprocess=preprocess,
        normalize_table=normalize_table(preprocess.mean, preprocess.std).tobytes(),
        labels=("a", "b", "c", "d", "é"),
        files=(
            FileEntry("model.pte", HASH, 3),
            *(FileEntry(f"golden/g.{level}.bin", HASH, 1) for level in ("L0", "L1", "L2", "L3")),
        ),
        goldens=(
            Golden(
                "g",
                {"top": 1},
                {
                    level: {"file": f"golden/g.{level}.bin", "shape": [1], "dtype": "uint8"}
                    for level in ("L0", "L1", "L2", "L3")
                },
            ),
        ),
        tolerance=Tolerance(max_relative_error=1e-5),
        parity=Executed("executorch 1", 2, 0.1, 0.2, None, 1.0, 1.0),
        lowering=Lowering(3, 3, 1, None, {}, {"conv": 3}),
        deploy=(),
        checks={"k": "v"},
        provenance=make_provenance(tools={"torch": "2", "git": None}),
    )


def test_round_trip(tmp_path):
    manifest = make_manifest()
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_unknown_keys_are_ignored_by_the_reader(tmp_path):
    document = make_manifest().to_json() | {"future": 1}
    document["model"]["future"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert read_manifest(tmp_path) == make_manifest()


def test_normalize_table_is_exact_after_json():
    manifest = Manifest.from_json(json.loads(json.dumps(make_manifest().to_json())))
    table = np.frombuffer(manifest.normalize_table, "<f4").reshape(3, 256)
    assert np.array_equal(table, normalize_table(manifest.preprocess.mean, manifest.preprocess.std))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": "other"}, "schema"),
        ({"schema_version": 1}, "schema_version"),
        ({"entry": "../model.pte"}, "entry"),
        ({"entry": "/etc/passwd"}, "entry"),
        ({"precision": "fp8"}, "precision"),
        ({"files": []}, "files"),
        (
            {"inputs": [{"name": "x", "shape": [0], "dtype": "float32", "layout": "FLAT", "color": ""}]},
            "inputs/0/shape/0",
        ),
    ],
)
def test_breach_names_its_place(tmp_path, change, place):
    (tmp_path / "manifest.json").write_text(json.dumps(make_manifest().to_json() | change))
    with pytest.raises(ContractError, match=f"manifest.json: {place}:"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "edgevit.manifest"}'])
def test_text_that_is_no_manifest_is_a_contract_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ContractError):
        read_manifest(tmp_path)


def test_missing_manifest_says_what_to_give(tmp_path):
    with pytest.raises(ContractError, match="artifact folder that `edgevit convert` wrote"):
        read_manifest(tmp_path)


def test_manifest_that_breaks_its_schema_is_not_written(tmp_path):
    with pytest.raises(ContractError):
        dataclasses.replace(make_manifest(), entry="../x").write(tmp_path)
    assert list(tmp_path.iterdir()) == []


OPTIONAL = {
    "classifier", "compression", "dynamic_batch", "accelerator", "executed", "reference", "runtime_min", "writer",
}  # fmt: skip


def test_schema_needs_every_other_field():
    document = make_manifest().to_json()
    assert Manifest.from_json({key: document[key] for key in document.keys() - OPTIONAL}) == make_manifest()
    for key in set(document) - OPTIONAL:
        with pytest.raises(ContractError):
            validate({k: v for k, v in document.items() if k != key}, "manifest", "m")


def test_manifest_of_version_1_says_how_to_make_the_artifact_again(tmp_path):
    document = make_manifest().to_json() | {"schema_version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ContractError, match=r"schema_version: 1 .* 2 is needed .*edgevit convert") as refused:
        read_manifest(tmp_path)
    assert refused.value.exit_code == 7
    assert "\n" not in str(refused.value)


def tensor_manifest() -> Manifest:
    """A network from tensors to tensors: two of each, no image and no classes."""
    names = [f"golden/g.{level}.bin" for level in ("L2", "L2_1", "L3", "L3_1")]
    levels = {name.split(".")[1]: {"file": name, "shape": [1], "dtype": "int64"} for name in names}
    return dataclasses.replace(
        make_manifest(),
        model=ModelFacts("net", Task.TENSOR, "edge", None, 100, 200, ""),
        inputs=(TensorSpec("ids", (1, 7), "int64"), TensorSpec("mask", (1, 1, 1, 1, 7, 7), "bool")),
        outputs=(TensorSpec("a", (1, 4)), TensorSpec("b", (1, 4), "float16")),
        preprocess=None,
        normalize_table=None,
        labels=(),
        files=(FileEntry("model.pte", HASH, 3), *(FileEntry(name, HASH, 1) for name in names)),
        goldens=(Golden("g", None, levels),),
        tolerance=Tolerance(1e-5, 50.0, 40.0),
        reference=ReferenceFacts("float64", 1e-6, 62.5),
        runtime_min=Runtime("executorch", "1.1"),
        writer="onnx2tf",
        executed=(
            SettingsRun(
                Runtime("executorch", "1.4.1"),
                {"load": "mmap", "arithmetic": "float16"},
                Outcome.WITHIN,
                None,
                1e-3,
                55.0,
                {"total": 9, "accelerated": 8, "left": [{"name": "gelu", "module": "a.b", "reason": None}]},
            ),
        ),
    )


def test_tensor_network_and_all_optional_facts_survive_the_file(tmp_path):
    manifest = tensor_manifest()
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert manifest.input_size is None
    assert "geometry" not in manifest.to_json()["goldens"][0]


@pytest.mark.parametrize("parity", [NotExecuted("coreml", "needs macOS"), Executed("r", 2, 0.0, 0.0, None, 1.0, 1.0)])
def test_parity_survives_the_file(tmp_path, parity):
    manifest = dataclasses.replace(make_manifest(), parity=parity)
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_provenance_leaves_out_what_weights_do_not_have():
    weights = make_manifest().to_json()["provenance"]["weights"]
    assert weights == {"source": "random", "state_sha256": HASH}


def test_image_input_classifier_and_compression_survive_the_file(tmp_path):
    manifest = dataclasses.replace(
        make_manifest(),
        inputs=(TensorSpec("image", (1, 32, 32, 3), "uint8", Layout.NHWC, "RGB"),),
        classifier=Classifier("label", "probabilities"),
        compression="palette4",
    )
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


_PASS = AppliedPass(
    "fold_affine", 3, 2.5e-7, ("stem.1", "blocks.0"), GraphFacts(12, 3400, 49, 2), GraphFacts(9, 3400, 25, 0)
)


def test_applied_passes_survive_the_file(tmp_path):
    manifest = dataclasses.replace(make_manifest(), deploy=(_PASS, AppliedPass("remove_noops", 1, 0.0, ("drop",))))
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert hash(read_manifest(tmp_path).deploy) == hash(manifest.deploy)  # targets are grouped by their applied passes


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"changes": 0}, "deploy/0/changes"),
        ({"places": "stem"}, "deploy/0/places"),
        ({"places": [3]}, "deploy/0/places/0"),
        ({"before": {"operations": 3}}, "deploy/0/before"),
        ({"after": {"operations": -1, "macs": 0, "depthwise_taps": 0, "transposes": 0}}, "deploy/0/after"),
    ],
)
def test_breach_in_an_applied_pass_names_its_place(change, place):
    document = dataclasses.replace(make_manifest(), deploy=(_PASS,)).to_json()
    document["deploy"][0] |= change
    with pytest.raises(ContractError, match=place):
        validate(document, "manifest", "m")


def test_spec_survives_json():
    spec = dataclasses.replace(classifier_spec(), build=None)
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec
