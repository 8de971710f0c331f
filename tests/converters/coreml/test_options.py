"""What Core ML's options change: images as input, a classifier's outputs, compressed weights."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import edgevit
from converters.coreml.compression import TOLERANCES, palette
from converters.coreml.converter import CONVERTER, PROGRAM_FILE, CoreMLOptions
from converters.coreml.sessions import CoreMLSession
from edgevit.artifacts.artifact import Artifact
from edgevit.compat.coremltools import message_classes, open_coremltools
from edgevit.contract.manifest import Classifier
from edgevit.data.preprocess import normalize_table, to_tensor
from edgevit.data.synthetic_images import noise_image
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ContractError, ConversionError, UsageError
from edgevit.export.export_program import export
from edgevit.mil import Interpreter
from edgevit.mil.lint import lint
from edgevit.quantization.weight_only import rounded_program
from edgevit.quantization.weight_storage import INT8
from edgevit.spec import Layout, Precision, TensorSpec
from edgevit.targets.base import INTERPRETER
from tests.edgevit.contract.test_manifest import make_manifest
from tests.fakes import make_provenance
from tests.tiny import SIZE, TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec

LABELS = ("ant", "bee", "cat", "dog", "eel")
IMAGES = [noise_image(SIZE, SIZE, seed) for seed in (1, 2)]
TABLE = normalize_table(classifier_spec().preprocess.mean, classifier_spec().preprocess.std)
TENSORS = [to_tensor(image, TABLE, Layout.NCHW) for image in IMAGES]


class WideClassifier(TinyClassifier):
    """TinyClassifier with two weights that are large enough to compress."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__(num_classes)
        self.head = torch.nn.Sequential(torch.nn.Linear(8, 512), torch.nn.GELU(), torch.nn.Linear(512, num_classes))


def _convert(folder, precision=Precision.FP32, build=WideClassifier, labels=LABELS, **options):
    """The artifact of a tiny network, not executed."""
    spec = segmenter_spec() if build is TinySegmenter else classifier_spec()
    module, _ = deploy(seeded(build), spec, kernels="coreml")
    chosen = CoreMLOptions(**options)
    program = export(module, spec, precision=precision, labels=labels)
    if chosen.weight_compression == INT8:
        program = rounded_program(program)
    result = CONVERTER.convert(program, chosen, folder)
    manifest = make_manifest()
    manifest = dataclasses.replace(
        manifest,
        model=dataclasses.replace(manifest.model, name=spec.name, task=spec.task),
        target="coreml",
        precision=precision,
        entry=result.entry,
        inputs=result.inputs,
        outputs=result.outputs,
        preprocess=spec.preprocess,
        labels=labels,
        lowering=result.lowering,
        classifier=result.classifier,
        compression=result.compression,
        provenance=make_provenance(options=dataclasses.asdict(chosen)),
    )
    return Artifact(folder, manifest)


def _outputs(artifact) -> np.ndarray:
    """Logits (N, classes) for IMAGES, from the normalised tensors that every artifact understands."""
    session = CONVERTER.open(artifact.path, artifact.manifest, accelerator=INTERPRETER)
    return artifact.run(np.concatenate(TENSORS), session=session)


def _expected() -> np.ndarray:
    with torch.no_grad():
        return seeded(WideClassifier)(torch.from_numpy(np.concatenate(TENSORS))).numpy()


def _error(artifact) -> float:
    expected = _expected()
    return float(np.abs(_outputs(artifact) - expected).max() / np.abs(expected).max())


def _edit(artifact, change) -> None:
    """Change the program's message in place."""
    path = artifact.path / artifact.manifest.entry / PROGRAM_FILE
    model = message_classes("Model_pb2").Model()
    model.ParseFromString(path.read_bytes())
    change(model, model.mlProgram.functions["main"].block_specializations["CoreML7"])
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """fp32, images in, label and probabilities out."""
    return _convert(tmp_path_factory.mktemp("images"), image_input=True, classifier=True)


@pytest.fixture
def copied(images, tmp_path):
    """`images` to damage."""
    import shutil

    shutil.copytree(images.path, tmp_path / "copy")
    return Artifact(tmp_path / "copy", images.manifest)


def test_an_image_gives_what_its_normalised_tensor_gives(images):
    assert images.manifest.inputs == (TensorSpec("image", (1, SIZE, SIZE, 3), "uint8", Layout.NHWC, "RGB"),)
    assert _error(images) < 1e-6
    facts = CONVERTER.check(images.path, images.manifest)
    assert facts["inputs"] == f"image image ({SIZE}, {SIZE})"


def test_normalisation_stays_fp32_so_that_halves_lose_nothing_to_it(tmp_path):
    plain = _convert(tmp_path / "plain", Precision.FP16)
    taking = _convert(tmp_path / "taking", Precision.FP16, image_input=True)
    assert _error(taking) <= 1.2 * _error(plain)
    findings = lint(taking.path / taking.manifest.entry, manifest=taking.manifest)
    (float_fallback,) = [finding for finding in findings if finding.rule == "fp32-float-fallback"]
    assert float_fallback.message == "2 op(s) compute in fp32 inside an fp16 program: add, mul"
    assert not [finding for finding in findings if finding.rule == "casts"]


def test_a_tensor_that_is_no_image_is_refused(images):
    with pytest.raises(UsageError, match="takes images"):
        images.run(np.full((1, 3, SIZE, SIZE), 0.5, np.float32), session=None)


def test_core_ml_gets_an_image_object(images, monkeypatch):
    """On macOS a package with an image as input takes nothing but an image."""
    seen = {}

    class Model:
        def __init__(self, path, compute_units):
            assert path.endswith(".mlpackage")

        def predict(self, inputs):
            seen.update(inputs)
            return {"logits": np.zeros((1, 5), np.float32)}

    ct = open_coremltools()
    monkeypatch.setattr(ct.models, "MLModel", Model)
    session = CoreMLSession(images.path / images.manifest.entry, images.manifest, "cpu")
    session.run({"image": IMAGES[0][None]})
    session.close()
    assert np.array_equal(np.asarray(seen["image"]), IMAGES[0])
    assert seen["image"].mode == "RGB"


def test_classifier_returns_label_and_probabilities_of_the_same_logits(images):
    assert images.manifest.classifier == Classifier("label", "probabilities")
    output = Interpreter(images.path / images.manifest.entry).predict({"image": IMAGES[0]})
    logits = output["logits"][0].astype(np.float64)
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert output["label"] == LABELS[int(logits.argmax())]
    assert list(output["probabilities"]) == list(LABELS)
    assert np.allclose(list(output["probabilities"].values()), wanted, atol=1e-6)


def test_preview_type_is_named_where_xcode_can_show_one(images, tmp_path):
    def preview(artifact):
        return Interpreter(artifact.path / artifact.manifest.entry).package.spec.description.metadata.userDefined

    assert preview(images)["com.apple.coreml.model.preview.type"] == "imageClassifier"
    masks = preview(_convert(tmp_path / "masks", build=TinySegmenter, labels=("sky", "sea"), image_input=True))
    assert masks["com.apple.coreml.model.preview.type"] == "imageSegmenter"
    assert json.loads(masks["com.apple.coreml.model.preview.parameters"]) == {"labels": ["sky", "sea"]}


def _swap_labels(model, block):
    values = block.operations[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
    first, second = (item.immediateValue.tensor.strings for item in values[:2])
    first.values[0], second.values[0] = second.values[0], first.values[0]


def _bypass_softmax(model, block):
    block.operations[-1].inputs["probabilities"].arguments[0].name = "logits"


def _turn_softmax(model, block):
    axis = next(operation for operation in block.operations if operation.outputs[0].name == "class_axis")
    axis.attributes["val"].immediateValue.tensor.ints.values[0] = 0


def _swap_channels(model, block):
    model.description.input[0].type.imageType.colorSpace = 30  # BGR


def _forget_the_label(model, block):
    model.description.predictedFeatureName = ""


@pytest.mark.parametrize("damage", [_swap_labels, _bypass_softmax, _turn_softmax, _swap_channels, _forget_the_label])
def test_lint_holds_image_and_classifier_to_the_manifest(copied, damage):
    CONVERTER.check(copied.path, copied.manifest)
    _edit(copied, damage)
    with pytest.raises(ContractError, match="the package has"):
        CONVERTER.check(copied.path, copied.manifest)


@pytest.mark.parametrize(
    ("labels", "build", "says"),
    [((), WideClassifier, "needs labels"), (("a",) * 5, WideClassifier, "distinct"), ((), TinySegmenter, "segments")],
)
def test_what_cannot_be_a_classifier_is_refused(tmp_path, labels, build, says):
    with pytest.raises(UsageError, match=says):
        _convert(tmp_path, build=build, labels=labels, classifier=True)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_compressed_weights_are_close_and_named(tmp_path, target):
    errors, sizes = {}, {}
    for kind in ("none", "int8", "palette4"):
        artifact = _convert(tmp_path / kind, deployment_target=target, weight_compression=kind)
        assert artifact.manifest.compression == ("" if kind == "none" else kind)
        CONVERTER.check(artifact.path, artifact.manifest)  # the package says the same
        with pytest.raises(ContractError, match="stored weights: the package has"):
            CONVERTER.check(artifact.path, dataclasses.replace(artifact.manifest, compression="palette8"))
        errors[kind] = _error(artifact)
        sizes[kind] = (artifact.path / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert errors["none"] < 1e-6 < errors["int8"] < 0.02 < errors["palette4"] < 0.3
    assert sizes["palette4"] < sizes["int8"] < sizes["none"]


def test_compressed_package_has_the_same_bytes_every_time(tmp_path):
    for name in ("one", "two"):
        _convert(tmp_path / name, weight_compression="palette6", image_input=True, classifier=True)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_every_compressed_kind_has_a_floor_below_the_fp16_one():
    assert all(0 < tolerance.min_snr_db < 50 for tolerance in TOLERANCES.values())


def test_nothing_to_compress_is_an_error(tmp_path):
    with pytest.raises(ConversionError, match="2049 values or more"):
        _convert(tmp_path, build=TinyClassifier, weight_compression="palette4")


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_compression": "int3"},
        {"int8_compute": "fp8"},
        {"deployment_target": "iOS9"},
        {"weight_compression": "int8", "deployment_target": "iOS15"},
    ],
)
def test_impossible_options_are_refused_at_once(wrong):
    with pytest.raises(UsageError):
        CoreMLOptions(**wrong)


def test_palette_finds_separated_values_and_their_indices():
    rng = np.random.default_rng(0)
    centres = np.array([-3.0, -1.0, 0.5, 4.0], np.float32)
    members = rng.integers(0, 4, 1000)
    values, indices = palette((centres[members] + rng.normal(0, 0.01, 1000)).astype(np.float32).reshape(10, 100), 4)
    assert np.allclose(values, centres, atol=0.01)
    assert np.array_equal(indices, members)


def test_palette_is_closer_than_even_spacing_and_the_nearest_value():
    weight = np.random.default_rng(1).laplace(size=(64, 64)).astype(np.float16)
    values, indices = palette(weight, 16)
    assert values.dtype == np.float16
    flat = weight.reshape(-1).astype(np.float64)
    distance = np.abs(flat[:, None] - values.astype(np.float64)[None])
    assert np.allclose(distance[np.arange(len(flat)), indices], distance.min(axis=1))
    even = np.linspace(flat.min(), flat.max(), 16)
    spaced = np.abs(flat[:, None] - even[None]).min(axis=1)
    assert np.square(distance.min(axis=1)).sum() < 0.4 * np.square(spaced).sum()


def test_the_whole_line_with_images_labels_and_compressed_weights(tmp_path):
    artifact = edgevit.convert(
        seeded(WideClassifier),
        spec=classifier_spec(),
        target="coreml",
        precision="fp16",
        labels=LABELS,
        out=tmp_path,
        options={"image_input": "true", "classifier": "true", "weight_compression": "int8"},
    )
    manifest = artifact.manifest
    assert artifact.name == "tiny_classifier-fp16-coreml-weight_compression-int8"
    assert (manifest.compression, manifest.tolerance.min_snr_db) == ("int8", 50)  # of the network with those weights
    assert manifest.checks["fp32 reference build"].startswith("max rel. error")  # held to 1e-5, without compression
    assert manifest.parity.samples == 4
    assert 50 < manifest.parity.snr_db < 80
    stored = artifact.golden_input("portrait")["image"]
    assert (stored.dtype, stored.shape) == (np.uint8, (1, SIZE, SIZE, 3))
    assert np.array_equal(stored[0], artifact.golden_level(artifact.golden("portrait"), "L1"))
    assert edgevit.verify(artifact).compression == "int8"
    assert artifact.predict(IMAGES[0])[0].label in LABELS
    with pytest.raises(UsageError, match="classifier is true or false, not 'yes'"):
        edgevit.convert(seeded(WideClassifier), spec=classifier_spec(), target="coreml", options={"classifier": "yes"})
