"""TFLite: parity in every layout, file facts, refusals. Each net is tiny; a conversion takes well under a second."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.data.layout import to_layout
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ContractError, ConversionError, DeviceError, UsageError
from edgevit.export.export_program import export
from edgevit.models.layers import LayerNorm2d, TokenNorm
from edgevit.spec import Layout, ModelSpec, Precision, TensorSpec
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec
from tests.untranslatable import Untranslatable

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from converters.tflite.converter import CONVERTER, MODEL_FILE

SIDE = 8  # channels, height and width of the feature maps below: axes cannot be distinguished by size


class OldNorm(nn.Module):
    """LayerNorm over tokens flattened out of a feature map and put back: the form that layout guessers misread."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(SIDE)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class MapNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = LayerNorm2d(SIDE)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Attention(nn.Module):
    """Two heads over the pixels, written with reshapes of channels-first feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (1, HW, C)
        query = self.query(tokens).transpose(1, 2).reshape(2, SIDE // 2, -1)  # (heads, C / heads, HW)
        key = self.key(tokens).transpose(1, 2).reshape(2, SIDE // 2, -1)
        weights = (torch.bmm(query.transpose(1, 2), key) * 0.3).softmax(1)  # over the first axis of pixels
        mixed = torch.bmm(x.reshape(2, SIDE // 2, -1), weights.transpose(1, 2))
        return x + mixed.reshape(x.shape)


class Tokens(nn.Module):
    """Constant tokens against pixels, LayerNorm on tokens, a gate per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, SIDE, SIDE))
        self.norm, self.gate = TokenNorm(SIDE), nn.Linear(SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.tokens @ x.flatten(2)  # (1, T, HW)
        gathered = scores.softmax(-1) @ x.flatten(2).transpose(1, 2)  # (1, T, C)
        gate = self.gate(self.norm(self.tokens + gathered)).mean(1).sigmoid()
        return x * gate.reshape(1, SIDE, 1, 1) + F.hardswish(x) * F.relu6(gate)[:, :, None, None]


class Shuffles(nn.Module):
    """Channel shuffle, depth to space and back, slices with a step, concatenation, constant padding."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(1, 2, SIDE // 2, SIDE * SIDE).transpose(1, 2).reshape(x.shape)
        x = torch.cat((x[:, 1::2], x[:, :4] * 2), 1)
        y = F.pixel_unshuffle(F.pixel_shuffle(x, 2).exp(), 2)
        return F.pad(y[..., 1:], (1, 0)) + x.permute(0, 1, 3, 2)


class Windows(nn.Module):
    """Convolutions and pools whose padding is lopsided, symmetric or none, plain, grouped, dilated and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(SIDE, 2 * SIDE, 3, stride=2, padding=1, groups=2)
        self.dilated = nn.Conv2d(2 * SIDE, 2 * SIDE, (2, 7), padding=(9, 9), dilation=(18, 3), groups=2 * SIDE)
        self.grow = nn.ConvTranspose2d(2 * SIDE, SIDE, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.strided(x))
        y = y + self.dilated(y)
        y = self.grow(y) + F.interpolate(F.max_pool2d(x, 3, 2, 1), scale_factor=2.0, mode="bilinear")
        return y + F.interpolate(F.max_pool2d(F.relu(x), 3, 2, 1), scale_factor=2.0) + F.avg_pool2d(x, 3, 1, 1)


class Norms(nn.Module):
    """Normalisations and activations that are broken up into arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.group, self.batch = nn.GroupNorm(4, SIDE), nn.BatchNorm2d(SIDE)
        nn.init.normal_(self.group.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.group(x)) + F.hardsigmoid(self.batch(x)) - F.gelu(x, approximate="tanh")
        x = F.scaled_dot_product_attention(x, x * 2, x + 1)
        return F.hardtanh(F.leaky_relu(x), -2.0, 2.0) / (1 + x.square()) + x.mean(1, keepdim=True)


def _map_spec() -> ModelSpec:
    """A spec of feature maps with C = H = W, in and out."""
    tensors = [TensorSpec(name, (1, SIDE, SIDE, SIDE), layout=Layout.NCHW) for name in ("image", "logits")]
    return dataclasses.replace(segmenter_spec(), name="cube", inputs=(tensors[0],), outputs=(tensors[1],))


def _convert(
    module: nn.Module, spec: ModelSpec, folder: Path, precision: Precision = Precision.FP32
) -> SimpleNamespace:
    """Convert; returns what check() and open() read of a manifest."""
    converted = CONVERTER.convert(export(module, spec, precision=precision), CONVERTER.Options(), folder)
    facts = {name: getattr(converted, name) for name in ("entry", "inputs", "outputs", "lowering", "compression")}
    return SimpleNamespace(precision=precision, dynamic_batch=False, **facts)


def _run(folder: Path, manifest: SimpleNamespace, image: Tensor) -> np.ndarray:
    """The output in the program's layout."""
    session = CONVERTER.open(folder, manifest)
    output = session.run({"image": to_layout(image.numpy(), Layout.NCHW, Layout.NHWC)})["logits"]
    session.close()
    return to_layout(output, Layout.NHWC, Layout.NCHW) if output.ndim == 4 else output


def _relative_error(module: nn.Module, image: Tensor, output: np.ndarray) -> float:
    with torch.no_grad():
        expected = module(image).numpy()
    return float(np.abs(output - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("build", [OldNorm, MapNorm, Attention, Tokens, Shuffles, Windows, Norms])
def test_cube_shaped_maps_keep_their_axes(build, tmp_path):
    module = seeded(build)
    image = torch.randn(1, SIDE, SIDE, SIDE)
    manifest = _convert(module, _map_spec(), tmp_path)
    assert _relative_error(module, image, _run(tmp_path, manifest, image)) < 1e-5
    assert [spec.layout for spec in manifest.inputs + manifest.outputs] == [Layout.NHWC, Layout.NHWC]


def test_norm_over_flattened_map_needs_no_transpose(tmp_path):
    assert _convert(seeded(OldNorm), _map_spec(), tmp_path).lowering.transposes == 0


class _FixedQuery(nn.Module):
    """Attention of pixels to queries that are weights; the product wants them as they are not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, SIDE, 3))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1).reshape(1, SIDE * SIDE, SIDE)
        attention = torch.bmm(pixels, self.query).transpose(1, 2).softmax(-1)  # (1, 3, H * W)
        return x * torch.bmm(attention, pixels).mean(1).reshape(1, SIDE, 1, 1)


def test_constant_in_another_order_is_stored_so(tmp_path):
    module, image = seeded(_FixedQuery), torch.randn(1, SIDE, SIDE, SIDE)
    manifest = _convert(module, _map_spec(), tmp_path)
    assert manifest.lowering.transposes == 0
    assert _relative_error(module, image, _run(tmp_path, manifest, image)) < 1e-5


def test_folded_and_plain_batch_norm_both_convert(tmp_path):
    module, spec = seeded(TinyClassifier), classifier_spec()
    image = torch.randn(1, 3, 32, 32)
    folded, _ = deploy(module, spec)
    for form in (module, folded):
        manifest = _convert(form, spec, tmp_path)
        assert _relative_error(module, image, _run(tmp_path, manifest, image)) < 1e-5


def test_whole_graph_is_delegated_and_counted(tmp_path):
    lowering = _convert(seeded(TinySegmenter), segmenter_spec(), tmp_path).lowering
    assert lowering.nodes == lowering.delegated == sum(lowering.ops.values())
    assert (lowering.regions, lowering.transposes, lowering.outside) == (1, 0, {})
    assert lowering.ops["RESIZE_BILINEAR"] == 1


def test_conversion_is_reproducible_offline_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", _no_network)
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    folders = [tmp_path / name for name in ("cwd", "first", "second")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    for folder in folders[1:]:
        _convert(seeded(TinyClassifier), classifier_spec(), folder)
    first, second = ((folder / MODEL_FILE).read_bytes() for folder in folders[1:])
    assert first == second
    assert [[path.name for path in folder.iterdir()] for folder in folders] == [[], [MODEL_FILE], [MODEL_FILE]]


def test_signature_has_the_names_of_the_spec(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    _convert(seeded(TinyClassifier), classifier_spec(), tmp_path)
    signatures = Interpreter(str(tmp_path / MODEL_FILE)).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 64, 3), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


def test_fp16_stores_half_weights_and_says_so(tmp_path):
    module, spec = seeded(_Wide), classifier_spec()
    image = torch.randn(1, 3, 32, 32)
    sizes = {}
    for precision, half_bytes in ((Precision.FP32, 0), (Precision.FP16, 2 * (64 * 27 + 64 * 5))):
        manifest = _convert(module, spec, tmp_path, precision)
        assert CONVERTER.check(tmp_path, manifest)["weights"].startswith(f"{half_bytes} bytes of float16")
        sizes[precision] = (tmp_path / MODEL_FILE).stat().st_size
    assert sizes[Precision.FP16] < 0.75 * sizes[Precision.FP32]
    error = _relative_error(module, image, _run(tmp_path, manifest, image))
    assert 1e-7 < error < 3e-3  # half weights leave a trace, a small one
    for true, claimed in ((Precision.FP16, Precision.FP32), (Precision.FP32, Precision.FP16)):
        manifest = _convert(module, spec, tmp_path, true)
        manifest.precision = claimed
        with pytest.raises(ContractError, match=f"says {claimed}"):
            CONVERTER.check(tmp_path, manifest)


def test_weight_beyond_half_range_is_refused(tmp_path):
    module = seeded(_Wide)
    module.head.weight.data[0, 0] = 1e5
    with pytest.raises(ConversionError, match=r"at head .*1e\+05 does not fit float16"):
        _convert(module, classifier_spec(), tmp_path, Precision.FP16)


def test_all_unsupported_ops_are_named_with_their_modules(tmp_path):
    with pytest.raises(ConversionError) as caught:
        _convert(Untranslatable(), classifier_spec(), tmp_path)
    assert "2 op(s)" in caught.value.message
    assert "aten.special_bessel_j0.default at first" in caught.value.message
    assert "aten.digamma.default at second" in caught.value.message
    assert not list(tmp_path.iterdir())


@pytest.fixture
def classifier(tmp_path) -> SimpleNamespace:
    """A converted TinyClassifier; its folder is tmp_path."""
    return _convert(seeded(TinyClassifier), classifier_spec(), tmp_path)


def test_check_names_the_facts(classifier, tmp_path):
    facts = CONVERTER.check(tmp_path, classifier)
    assert facts["inputs"] == "image float32 1x32x32x3"
    assert facts["outputs"] == "logits float32 1x5"
    assert facts["custom ops"] == "0"


@pytest.mark.parametrize("kept", [6, 100, 0.5, 0.99])
def test_truncated_file_is_refused(classifier, tmp_path, kept):
    path = tmp_path / MODEL_FILE
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(len(data) * kept)])
    with pytest.raises(ContractError):
        CONVERTER.check(tmp_path, classifier)


def test_file_that_is_not_what_its_manifest_says_is_refused(classifier, tmp_path):
    (spec,) = classifier.outputs
    classifier.outputs = (dataclasses.replace(spec, shape=(1, 6)),)
    with pytest.raises(ContractError, match=r"\(1, 5\)"):
        CONVERTER.check(tmp_path, classifier)


def test_damaged_file_does_not_open(classifier, tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(b"\0" * 64)
    with pytest.raises(DeviceError, match="cannot load"):
        CONVERTER.open(tmp_path, classifier)


def test_session_refuses_wrong_inputs_and_returns_copies(classifier, tmp_path):
    image = np.ones((1, 32, 32, 3), np.float32)
    with pytest.raises(UsageError, match="gpu"):
        CONVERTER.open(tmp_path, classifier, accelerator="gpu")
    session = CONVERTER.open(tmp_path, classifier, threads=2)
    for wrong in ({}, {"image": image, "extra": image}, {"image": image[0]}, {"image": image.astype(np.float64)}):
        with pytest.raises(UsageError):
            session.run(wrong)
    first = session.run({"image": image})["logits"]
    kept = first.copy()
    session.run({"image": 2 * image})
    np.testing.assert_array_equal(first, kept)
    assert session.runtime.startswith("litert ")
    assert session.threads == 2
    session.close()


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("reached for the network")


def test_elu_of_another_slope_is_refused(tmp_path):
    module = Function(lambda net, x: F.elu(x, alpha=0.5).mean((2, 3))[:, :3])
    with pytest.raises(ConversionError, match="ELU with another slope"):
        _convert(module, classifier_spec(3), tmp_path)
