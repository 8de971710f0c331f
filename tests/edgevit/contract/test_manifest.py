"""The manifest: what is written is what is read, and a broken one is refused with its place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edgevit.artifacts.artifact import check_files, file_entries
from edgevit.contract.manifest import (
    AppliedPass,
    Classifier,
    FileEntry,
    Golden,
    GraphFacts,
    Lowering,
    Manifest,
    ModelFacts,
    Parity,
    Tolerance,
    applied_pass_from_json,
    read_manifest,
    spec_from_json,
    spec_to_json,
)
from edgevit.contract.schema import validate
from edgevit.data.preprocess import normalize_table
from edgevit.errors import ContractError
from edgevit.spec import Layout, Precision, Preprocess, Task, TensorSpec, class_logits, image_input
from tests.tiny import classifier_spec

HASH = "0" * 64


def make_manifest() -> Manifest:
    preprocess = Preprocess.for_input(32)
    return Manifest(
        name="net-fp32-executorch",
        model=ModelFacts("net", Task.CLASSIFY, "edge", 5, 32, 100, 200, "a paper"),
        target="executorch",
        precision=Precision.FP32,
        entry="model.pte",
        inputs=image_input(32),
        outputs=class_logits(5),
        preprocess=preprocess,
        normalize_table=normalize_table(preprocess.mean, preprocess.std).tobytes(),
        labels=("a", "b", "c", "d", "é"),
        files=(FileEntry("model.pte", HASH, 3),),
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
        parity=Parity(True, "executorch 1", 2, 0.1, 0.2, None, 1.0, 1.0),
        lowering=Lowering(3, 3, 1, None, {}, {"conv": 3}),
        deploy=(),
        checks={"k": "v"},
        provenance={
            "weights": {"source": "random", "state_sha256": HASH},
            "tools": {"torch": "2", "git": None},
            "options": {},
            "edgevit_version": "0",
            "git_commit": None,
            "python": "3.11",
            "platform": "p",
            "created_utc": "2026-01-01T00:00:00+00:00",
            "conversion_s": 1.0,
        },
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
        ({"schema_version": 2}, "schema_version"),
        ({"entry": "../model.pte"}, "entry"),
        ({"entry": "/etc/passwd"}, "entry"),
        ({"precision": "fp8"}, "precision"),
        ({"files": []}, "files"),
        ({"inputs": [{"name": "x", "shape": [0], "dtype": "float32", "layout": "FLAT"}]}, "inputs/0/shape/0"),
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


ADDED = {
    "classifier",
    "compression",
    "dynamic_batch",
    "accelerator",
    "executed",
}  # manifests of before lack them


def test_schema_needs_every_field_but_those_added_later():
    document = make_manifest().to_json()
    validate({key: value for key, value in document.items() if key not in ADDED}, "manifest", "m")
    for key in set(document) - ADDED:
        with pytest.raises(ContractError):
            validate({k: v for k, v in document.items() if k != key}, "manifest", "m")


def test_manifest_of_before_is_read_as_plain():
    document = make_manifest().to_json()
    for key in ADDED:
        del document[key]
    for tensor in document["inputs"] + document["outputs"]:
        del tensor["color"]
    validate(document, "manifest", "m")
    manifest = Manifest.from_json(document)
    assert (manifest.classifier, manifest.compression, manifest.inputs[0].color) == (None, "", "")
    assert (manifest.dynamic_batch, manifest.accelerator) == (False, "cpu")


def test_image_input_classifier_and_compression_survive_the_file(tmp_path):
    manifest = dataclasses.replace(
        make_manifest(),
        inputs=(TensorSpec("image", (1, 32, 32, 3), "uint8", Layout.NHWC, "RGB"),),
        classifier=Classifier("label", "probabilities"),
        compression="palette4",
    )
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


_STEP = AppliedPass(
    "fold_affine", 3, 2.5e-7, ("stem.1", "blocks.0"), GraphFacts(12, 3400, 49, 2), GraphFacts(9, 3400, 25, 0)
)


def test_deploy_steps_survive_the_file(tmp_path):
    manifest = dataclasses.replace(make_manifest(), deploy=(_STEP, AppliedPass("remove_noops", 1, 0.0, ("drop",))))
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert hash(read_manifest(tmp_path).deploy) == hash(manifest.deploy)  # targets are grouped by their steps


def test_deploy_step_of_before_has_no_places_and_no_numbers():
    step = {"name": "fold_conv_bn", "changes": 4, "probe_error": 1e-7}
    validate(make_manifest().to_json() | {"deploy": [step]}, "manifest", "m")
    assert applied_pass_from_json(step) == AppliedPass("fold_conv_bn", 4, 1e-7, (), None, None)


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
def test_breach_in_a_deploy_step_names_its_place(change, place):
    document = dataclasses.replace(make_manifest(), deploy=(_STEP,)).to_json()
    document["deploy"][0] |= change
    with pytest.raises(ContractError, match=place):
        validate(document, "manifest", "m")


def test_files_are_held_to_their_hashes(tmp_path):
    (tmp_path / "model.pte").write_bytes(b"abc")
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "x.bin").write_bytes(b"1")
    entries = file_entries(tmp_path)
    check_files(tmp_path, entries)
    (tmp_path / ".DS_Store").write_text("litter of a file manager")
    check_files(tmp_path, entries)
    for content, message in ((b"abd", "does not match the hash"), (b"ab", "has 2 bytes, its manifest says 3")):
        (tmp_path / "model.pte").write_bytes(content)
        with pytest.raises(ContractError, match=message):
            check_files(tmp_path, entries)
    (tmp_path / "model.pte").unlink()
    with pytest.raises(ContractError, match=r"model\.pte is missing"):
        check_files(tmp_path, entries)


def test_stranger_and_link_in_the_folder_are_refused(tmp_path):
    (tmp_path / "model.pte").write_bytes(b"abc")
    entries = file_entries(tmp_path)
    (tmp_path / "more").write_text("")
    with pytest.raises(ContractError, match="does not know: more"):
        check_files(tmp_path, entries)
    (tmp_path / "more").unlink()
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "model.pte").unlink()
    (tmp_path / "model.pte").symlink_to(tmp_path / "real")
    with pytest.raises(ContractError, match=r"model\.pte is missing"):
        check_files(tmp_path, entries)


def test_spec_survives_json():
    spec = dataclasses.replace(classifier_spec(), build=None)
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec
