"""The whole line on tiny networks: what an artifact holds, and what a failure leaves behind."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

import edgevit
from edgevit.artifacts.artifact import load_artifact
from edgevit.contract.manifest import Executed, read_manifest
from edgevit.conversion import pipeline, worker_processes
from edgevit.data.synthetic_images import sample_images
from edgevit.errors import ContractError, ConversionError, ParityError, UsageError
from edgevit.infra import process
from edgevit.verification.goldens import check_goldens
from tests.tiny import TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec


def test_artifact_holds_everything_an_app_needs(classifier_artifact):
    manifest = classifier_artifact.manifest
    assert classifier_artifact.path.name == "tiny_classifier-fp32-executorch"
    assert {f.path for f in manifest.files} == {
        "model.pte",
        "labels.txt",
        *(f"golden/{n}.{level}.bin" for n in ("landscape", "portrait") for level in ("L0", "L1", "L2", "L3")),
        *(f"golden/{n}.L4_{part}.bin" for n in ("landscape", "portrait") for part in ("indices", "probabilities")),
    }
    assert manifest.labels == ("ant", "bee", "cat", "dog", "eel")
    assert isinstance(manifest.parity, Executed)
    assert manifest.parity.samples == 4
    assert manifest.parity.max_relative_error <= 1e-5
    assert manifest.lowering.delegated == manifest.lowering.nodes > 0
    assert [(step.name, step.places) for step in manifest.deploy] == [
        ("remove_noops", ("drop",)),
        ("fold_affine", ("stem.1",)),
        ("split_depthwise", ("mix",)),
    ]
    assert all(step.probe_error <= 1e-6 and step.before != step.after for step in manifest.deploy)
    assert manifest.provenance.weights.source == "memory"
    assert set(manifest.provenance.tools) == {"edgevit", "torch", "numpy", "executorch"}


@pytest.mark.parametrize("target", ["executorch", "coreml", "tflite", "onnx"])
def test_bf16_is_refused_by_targets_that_have_none(target, tmp_path):
    with pytest.raises(UsageError, match="bf16"):
        edgevit.convert("van_b0", target=target, precision="bf16", out=tmp_path)


def test_stored_output_is_the_training_forms(classifier_artifact):
    golden = classifier_artifact.golden("portrait")
    tensor = classifier_artifact.golden_level(golden, "L2")
    expected = seeded(TinyClassifier).double()(torch.from_numpy(tensor.copy()).double()).detach().numpy()
    assert np.array_equal(classifier_artifact.golden_level(golden, "L3"), expected.astype(np.float32))
    assert np.array_equal(classifier_artifact.golden_level(golden, "L0"), sample_images()["portrait"])


def test_verify_runs_the_artifact(classifier_artifact):
    report = edgevit.verify(classifier_artifact.path)
    assert isinstance(report.parity, Executed)
    assert report.parity.samples == 2
    assert report.checks["goldens"] == "2 images preprocessed bit-exactly"
    assert report.artifact_sha256 == classifier_artifact.manifest_sha256


def test_predict_gives_labels_from_image_and_from_tensor(classifier_artifact):
    image = sample_images()["landscape"]
    from_image = classifier_artifact.predict(image)
    from_tensor = classifier_artifact.predict(classifier_artifact.golden_input("landscape")["image"])
    assert [p.label for p in from_image] == [p.label for p in from_tensor]
    (result,) = edgevit.predict(classifier_artifact.path, image)
    assert result.classes == from_image
    assert sum(p.probability for p in from_image) == pytest.approx(1, abs=1e-5)


def test_segmenter_gives_a_mask(segmenter_artifact):
    mask = segmenter_artifact.predict(sample_images()["landscape"])
    assert mask.shape == (32, 32)
    assert mask.dtype == np.uint8
    assert "golden/landscape.L4_mask.bin" in {f.path for f in segmenter_artifact.manifest.files}


def _rewrite(artifact, change):
    """Alter a copied artifact and make its manifest agree, as somebody who repacks it would."""
    from edgevit.artifacts.artifact import file_entries

    change(artifact.path)
    document = json.loads((artifact.path / "manifest.json").read_text())
    document["files"] = [
        {"path": e.path, "sha256": e.sha256, "size_bytes": e.size_bytes} for e in file_entries(artifact.path)
    ]
    (artifact.path / "manifest.json").write_text(json.dumps(document))


def test_verify_catches_another_models_file(classifier_copy, tmp_path):
    torch.manual_seed(5)
    other = edgevit.convert(
        TinyClassifier().eval(), spec=classifier_spec(), target="executorch", out=tmp_path / "other"
    )
    _rewrite(
        classifier_copy, lambda folder: (folder / "model.pte").write_bytes((other.path / "model.pte").read_bytes())
    )
    with pytest.raises(ParityError, match="does not compute what its checkpoint computes"):
        edgevit.verify(classifier_copy.path)


def test_verify_catches_changed_preprocessing(classifier_copy):
    document = json.loads((classifier_copy.path / "manifest.json").read_text())
    document["preprocess"]["interpolation"] = "bicubic"
    (classifier_copy.path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ContractError, match="differs from this machine's preprocessing at level L1"):
        check_goldens(load_artifact(classifier_copy.path))


def test_one_flipped_byte_is_refused(classifier_copy):
    path = classifier_copy.path / "model.pte"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ContractError, match="does not match the hash"):
        load_artifact(classifier_copy.path)


def test_file_factory_takes_classes_and_size(my_model, tmp_path):
    artifact = edgevit.convert(f"{my_model}:build", target="executorch", num_classes=7, input_size=48, out=tmp_path)
    assert artifact.name == "my_model-fp32-executorch"
    assert artifact.manifest.outputs[0].shape == (1, 7)
    assert artifact.manifest.inputs[0].shape == (1, 3, 48, 48)
    assert artifact.manifest.provenance.weights.source == "random"


class _Scaled(TinyClassifier):
    """A network that does not compute the same in the runtime: its output depends on a Python global."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x) * (1.0 + 0.01 * (type(self).calls > 4))


def test_artifact_that_differs_from_its_checkpoint_never_appears(tmp_path):
    model = seeded(_Scaled)
    with pytest.raises(ParityError, match=r"max rel\. error 1\.\d+e-02"):
        edgevit.convert(model, spec=classifier_spec(), target="executorch", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_worker_that_dies_is_a_conversion_error(tmp_path, monkeypatch):
    dead = process.Completed(-11, "", "some chatter\nlast words\n")
    monkeypatch.setattr(process, "run", lambda *args, **kwargs: dead)
    with pytest.raises(ConversionError, match="executorch converter ended with signal SIGSEGV: last words"):
        edgevit.convert(seeded(TinyClassifier), spec=classifier_spec(), target="executorch", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_several_targets_give_a_list_and_one_failure_does_not_stop_the_others(tmp_path, monkeypatch):
    real = worker_processes.run_worker

    def fail_coreml(request, *rest):
        if request.target == "coreml":
            raise ConversionError("no")
        return real(request, *rest)

    monkeypatch.setattr(worker_processes, "run_worker", fail_coreml)
    with pytest.raises(ConversionError, match="no"):
        edgevit.convert(seeded(TinySegmenter), spec=segmenter_spec(), target=["coreml", "executorch"], out=tmp_path)
    assert isinstance(read_manifest(tmp_path / "tiny_segmenter-fp32-executorch").parity, Executed)


def test_deploys_once_for_each_kernel_library(tmp_path, monkeypatch):
    calls, deploy = [], pipeline.deploy

    def recorded(captured, spec, passes, kernels):
        module, steps = deploy(captured, spec, passes, kernels)
        calls.append((kernels, captured, [step.name for step in steps]))
        return module, steps

    monkeypatch.setattr(pipeline, "deploy", recorded)
    targets = ["tflite", "coreml", "executorch"]
    artifacts = edgevit.convert(seeded(TinyClassifier), spec=classifier_spec(), target=targets, out=tmp_path)
    assert [artifact.manifest.target for artifact in artifacts] == targets
    (first, captured, for_xnnpack), (second, also_captured, for_coreml) = calls
    assert (first, second) == ("xnnpack", "coreml")
    assert captured is also_captured
    assert set(for_xnnpack) - set(for_coreml) == {"split_depthwise"}
    manifests = {artifact.manifest.target: artifact.manifest for artifact in artifacts}
    assert manifests["tflite"].deploy == manifests["executorch"].deploy
    for target, kernels, names in (("executorch", "xnnpack", for_xnnpack), ("coreml", "coreml", for_coreml)):
        assert [step.name for step in manifests[target].deploy] == names
        assert manifests[target].provenance.kernels == kernels


def test_conversion_without_deploy_rewrites_nothing(tmp_path):
    artifact = edgevit.convert(
        seeded(TinyClassifier), spec=classifier_spec(), target="executorch", out=tmp_path, deploy=False
    )
    assert artifact.manifest.deploy == ()
    assert artifact.manifest.parity.max_relative_error <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "executorc"}, "did you mean executorch"),
        ({"target": "executorch", "precision": "fp15"}, "did you mean fp16"),
        ({"target": "coreml", "options": {"deployment_targt": "iOS17"}}, "did you mean deployment_target"),
        ({"target": "coreml", "options": {"deployment_target": "iOS1"}}, "unknown deployment target 'iOS1'"),
        ({"target": "executorch", "labels": ("a",)}, "1 labels for 5 classes"),
        ({"target": []}, "no target"),
    ],
)
def test_wrong_arguments_fail_before_any_work(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        edgevit.convert(seeded(TinyClassifier), spec=classifier_spec(), out=tmp_path, **arguments)
    assert os.listdir(tmp_path) == []
