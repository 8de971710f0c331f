"""ONNX: parity at several batch sizes, file facts, refusals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgevit
from edgevit.artifacts.artifact import Artifact
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ContractError, ConversionError, DeviceError, UsageError
from edgevit.export.export_program import export
from edgevit.graph.capture import capture, example_input, functional
from edgevit.targets.base import NotExecutable
from tests.families import FAMILIES, build, spec_of
from tests.tiny import TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec
from tests.untranslatable import Untranslatable

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from converters.onnx.converter import CONVERTER, MODEL_FILE, OnnxOptions  # noqa: E402 - after the skips
from converters.onnx.export import OPSET  # noqa: E402 - after the skips
from converters.onnx.simplify import simplify  # noqa: E402 - after the skips


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Artifact:
    """TinyClassifier in fp16, whose fp32 reference build was held to 1e-5 on the way."""
    out = tmp_path_factory.mktemp("onnx")
    return edgevit.convert(seeded(TinyClassifier), spec=classifier_spec(), target="onnx", precision="fp16", out=out)


def _program(model, spec):
    inputs = tuple(example_input(tensor.shape) for tensor in spec.inputs)
    return export(functional(capture(model, inputs, spec.name)), spec, dynamic_batch=True)


def _edited(made: Artifact, folder, change) -> None:
    """Copy the model file with a change."""
    model = onnx.load(str(made.path / MODEL_FILE))
    change(model)
    onnx.save(model, str(folder / MODEL_FILE))


def test_artifact_says_what_was_compared(made):
    manifest = made.manifest
    assert made.path.name == "tiny_classifier-fp16-onnx"
    assert manifest.dynamic_batch
    assert manifest.checks["batch sizes"] == "1, 3"
    assert manifest.checks["opset"] == "20"
    assert manifest.checks["inputs"] == "image float32 batchx3x32x32"
    assert manifest.checks["outputs"] == "logits float32 batchx5"
    assert "over 8 inputs in onnxruntime" in manifest.checks["fp32 reference build"]
    assert manifest.parity.samples == 8
    assert manifest.parity.snr_db >= 50
    assert manifest.lowering.ops["Conv"] == 2


def test_verify_runs_one_and_three_at_once(made):
    result = edgevit.verify(made.path)
    assert result.parity.samples == 5
    assert result.parity.snr_db >= 50


class _Tokens(nn.Module):
    """A token that no image changes beside those of the image, and heads in front of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.token, self.head = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.stem(x).flatten(2).transpose(1, 2)], 1)
        heads = tokens.reshape(-1, 17, 2, 4).transpose(1, 2).reshape(-1, 17, 4)
        mixed = torch.bmm(torch.bmm(heads, heads.transpose(1, 2)).softmax(-1), heads)
        return self.head(mixed.reshape(-1, 2, 17, 4).transpose(1, 2).reshape(-1, 17, 8)[:, 0])


@pytest.mark.parametrize(
    ("build", "spec"), [(TinySegmenter, segmenter_spec()), (_Tokens, classifier_spec())], ids=["maps", "tokens"]
)
def test_every_image_of_any_batch_gets_its_output(build, spec, tmp_path):
    model = seeded(build)
    CONVERTER.convert(_program(model, spec), OnnxOptions(), tmp_path)
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / MODEL_FILE))
    for count in (1, 4):
        images = torch.randn(count, 3, 32, 32)
        (output,) = session.run(None, {"image": images.numpy()})
        with torch.no_grad():
            expected = model(images).numpy()
        assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()


def test_file_tells_nothing_of_the_machine_that_made_it(made):
    model = onnx.load(str(made.path / MODEL_FILE))
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.metadata_props
    assert b".py" not in model.SerializeToString()


def test_untranslatable_ops_are_all_named(tmp_path):
    spec = classifier_spec()
    with pytest.raises(ConversionError, match=r"no form of 2 op\(s\).*first.*second"):
        CONVERTER.convert(_program(Untranslatable(), spec), OnnxOptions(), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 31), "has inputs"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "has inputs"),
        (lambda model: model.graph.node.add(op_type="Relu", input=["image"], output=["more"]), "operators"),
        (lambda model: _widen(model), "its manifest says fp16"),
        (lambda model: _foreign(model), "not ONNX's own: com.example"),
    ],
    ids=["size", "fixed batch", "one more operator", "wide weights", "foreign operator"],
)
def test_file_that_is_not_what_its_manifest_says(made, tmp_path, change, words):
    _edited(made, tmp_path, change)
    with pytest.raises(ContractError, match=words):
        CONVERTER.check(tmp_path, made.manifest)


def _widen(model) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(16, np.float32), "wide"))


def _foreign(model) -> None:
    model.opset_import.add(domain="com.example", version=1)
    model.graph.node.add(op_type="Gate", domain="com.example", input=["image"], output=["more"])


def test_damaged_file_is_refused(made, tmp_path):
    data = (made.path / MODEL_FILE).read_bytes()
    (tmp_path / MODEL_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(ContractError, match="no valid ONNX model"):
        CONVERTER.check(tmp_path, made.manifest)
    with pytest.raises(DeviceError, match="cannot load"):
        CONVERTER.open(tmp_path, made.manifest)


def test_accelerator_that_is_not_there_says_how_to_get_it(made):
    with pytest.raises(NotExecutable, match="onnxruntime-gpu"):
        made.open("npu")


def test_wrong_inputs_are_usage_errors(made):
    session = made.open()
    try:
        with pytest.raises(UsageError, match=r"\(N, 3, 32, 32\)"):
            session.run({"image": np.zeros((2, 3, 16, 16), np.float32)})
        with pytest.raises(UsageError, match="no input 'photo'"):
            session.run({"photo": np.zeros((2, 3, 32, 32), np.float32)})
        with pytest.raises(UsageError, match="float32"):
            session.run({"image": np.zeros((2, 3, 32, 32))})
        assert session.run({"image": np.zeros((7, 3, 32, 32), np.float32)})["logits"].shape == (7, 5)
    finally:
        session.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_simplified_graph_has_the_operations_of_the_exporters_own_optimizer(family):
    torch.manual_seed(0)
    deployed, _ = deploy(build(family).eval(), spec_of(family), kernels="server")
    program = export(deployed, spec_of(family))

    def exported(*, optimize: bool) -> torch.onnx.ONNXProgram:
        return torch.onnx.export(program.exported, dynamo=True, opset_version=OPSET, verbose=False, optimize=optimize)

    ours, theirs = exported(optimize=False), exported(optimize=True)
    simplify(ours.model)
    operations = [Counter(node.op_type for node in one.model_proto.graph.node) for one in (ours, theirs)]
    assert operations[0] == operations[1]
