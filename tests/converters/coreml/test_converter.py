"""Core ML on a machine without it: the package's facts, checked statically, and damage found."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from converters.coreml import deduplicate
from converters.coreml.converter import CONVERTER, PROGRAM_FILE, CoreMLOptions
from edgevit.artifacts.artifact import file_entries
from edgevit.compat.coremltools import message_classes
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ContractError, ConversionError, UsageError
from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from edgevit.mil import Interpreter
from edgevit.mil.package import body, walk
from edgevit.spec import Precision
from edgevit.targets.base import INTERPRETER
from tests.edgevit.contract.test_manifest import make_manifest
from tests.fakes import make_provenance
from tests.tiny import TinyClassifier, classifier_spec, seeded
from tests.untranslatable import Untranslatable

LABELS = ("ant", "bee", "cat", "dog", "eel")


def _convert(folder, precision, **options):
    module, _ = deploy(seeded(TinyClassifier), classifier_spec(), kernels="coreml")
    program = export(module, classifier_spec(), precision=precision, labels=LABELS)
    chosen = CoreMLOptions(**options)
    result = CONVERTER.convert(program, chosen, folder)
    manifest = make_manifest()
    return dataclasses.replace(
        manifest,
        model=dataclasses.replace(manifest.model, name="tiny_classifier"),
        target="coreml",
        precision=precision,
        entry=result.entry,
        inputs=result.inputs,
        outputs=result.outputs,
        labels=LABELS,
        files=file_entries(folder),
        lowering=result.lowering,
        provenance=make_provenance(options=dataclasses.asdict(chosen)),
    )


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Folder and manifest of TinyClassifier in fp16."""
    folder = tmp_path_factory.mktemp("coreml")
    return folder, _convert(folder, Precision.FP16)


def _program(folder):
    model = message_classes("Model_pb2").Model()
    model.ParseFromString((folder / "model.mlpackage" / PROGRAM_FILE).read_bytes())
    return model.mlProgram.functions["main"]


def test_equal_constants_are_stored_once(half):
    constants = [operation for operation in walk(body(_program(half[0]))) if operation.type == "const"]
    contents = {
        (operation.outputs[0].type.SerializeToString(), operation.attributes["val"].SerializeToString())
        for operation in constants
    }
    assert len(contents) == len(constants) > 5


def test_deduplication_changes_no_output_and_no_value_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(deduplicate, "slim", lambda path: None)
    _convert(tmp_path, Precision.FP16, classifier=True)
    monkeypatch.undo()
    image = {"image": example_input((1, 3, 32, 32)).numpy()}
    package = tmp_path / "model.mlpackage"
    before, stored = Interpreter(package).predict(image), _program(tmp_path)
    deduplicate.slim(package / PROGRAM_FILE)
    after, slimmed = Interpreter(package).predict(image), _program(tmp_path)
    assert len(body(slimmed).operations) < len(body(stored).operations)
    assert np.array_equal(after["logits"], before["logits"])
    assert after["label"] == before["label"]
    given = [next(one for one in walk(body(function)) if one.type == "classify") for function in (stored, slimmed)]
    assert given[1].inputs["classes"] == given[0].inputs["classes"]
    assert given[1].inputs["classes"].arguments[0].WhichOneof("binding") == "value"


def test_check_reads_version_names_dtypes_labels_and_weights(half):
    folder, manifest = half
    facts = CONVERTER.check(folder, manifest)
    assert facts["specification version"] == "8"
    assert facts["inputs"] == "image float32 (1, 3, 32, 32)"
    assert facts["outputs"] == "logits float32 (1, 5)"
    assert facts["precision"] == "fp16"
    assert json.loads(facts["labels"]) == list(LABELS)
    assert int(facts["weights"].split()[0]) > 0
    assert manifest.lowering.ops["conv"] == 2


def test_fp32_computes_in_fp32_and_target_follows_the_option(tmp_path):
    manifest = _convert(tmp_path, Precision.FP32, deployment_target="iOS18", author="Ada")
    facts = CONVERTER.check(tmp_path, manifest)
    assert (facts["precision"], facts["specification version"]) == ("fp32", "9")


def test_same_program_gives_the_same_bytes(half, tmp_path):
    folder, _ = half
    _convert(tmp_path, Precision.FP16)
    assert file_entries(tmp_path) == file_entries(folder)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"precision": Precision.FP32}, "precision: the package has fp16"),
        ({"labels": LABELS[::-1]}, "labels: the package has"),
        ({"outputs": classifier_spec(6).outputs}, "outputs: the package has"),
    ],
)
def test_manifest_that_disagrees_is_caught(half, change, fact):
    folder, manifest = half
    with pytest.raises(ContractError, match=fact):
        CONVERTER.check(folder, dataclasses.replace(manifest, **change))


def test_truncated_weights_and_program_are_caught(half, tmp_path):
    folder, manifest = half
    for file, keep in (("weights/weight.bin", 64), ("model.mlmodel", 100)):
        copy = tmp_path / file.replace("/", "-")
        shutil.copytree(folder, copy)
        path = copy / "model.mlpackage/Data/com.apple.CoreML" / file
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ContractError, match=path.name):
            CONVERTER.check(copy, manifest)


def test_reading_does_not_rewrite_the_package(half):
    folder, manifest = half
    path = folder / "model.mlpackage" / "Manifest.json"
    before = path.stat().st_mtime_ns
    CONVERTER.check(folder, manifest)
    CONVERTER.open(folder, manifest, accelerator=INTERPRETER).close()
    assert path.stat().st_mtime_ns == before


def test_interpreter_computes_what_torch_computes(half, tmp_path):
    folder, manifest = half
    whole = _convert(tmp_path, Precision.FP32)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    expected = seeded(TinyClassifier)(x).detach().numpy()
    for place, facts, bound in ((tmp_path, whole, 1e-5), (folder, manifest, 1e-2)):
        session = CONVERTER.open(place, facts, accelerator=INTERPRETER)
        output = session.run({"image": x.numpy()})["logits"]
        assert session.runtime.startswith("reference interpreter")
        assert np.abs(output - expected).max() <= bound * np.abs(expected).max()
        session.close()


class _Affine(torch.nn.Module):
    """x * a + b per channel, eight times: what coremltools makes a batch_norm with an epsilon of."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([1.5, 0.5, 1.1]).reshape(1, 3, 1, 1))
        self.b = torch.nn.Parameter(torch.tensor([0.1, 0.2, -0.3]).reshape(1, 3, 1, 1))

    def forward(self, x):
        for _ in range(8):
            x = torch.relu(x * self.a + self.b)
        return x.mean((2, 3))


def test_affine_maps_are_not_scaled_by_an_epsilon(tmp_path):
    spec = dataclasses.replace(classifier_spec(3), name="affine")
    manifest = make_manifest()
    result = CONVERTER.convert(export(_Affine(), spec), CoreMLOptions(), tmp_path)
    facts = dataclasses.replace(manifest, entry=result.entry, inputs=result.inputs, outputs=result.outputs)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    output = CONVERTER.open(tmp_path, facts, accelerator=INTERPRETER).run({"image": x.numpy()})["logits"]
    expected = _Affine()(x).detach().numpy()
    assert np.abs(output - expected).max() <= 2e-6 * np.abs(expected).max()  # 4e-5 with the epsilon


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs Core ML")
def test_other_accelerators_need_a_mac(half):
    folder, manifest = half
    with pytest.raises(UsageError, match="without Core ML"):
        CONVERTER.open(folder, manifest, accelerator="ane")


def test_ops_without_a_form_are_all_named_with_their_modules(tmp_path):
    with pytest.raises(ConversionError, match="no form for 2 op") as caught:
        CONVERTER.convert(export(Untranslatable().eval(), classifier_spec()), CoreMLOptions(), tmp_path)
    for word in ("special_bessel_j0", "digamma"):
        assert word in caught.value.message
