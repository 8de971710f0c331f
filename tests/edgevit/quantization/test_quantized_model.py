"""The int8 network: Q/DQ pairs, training, storing; the trained and the exported network are bit-exact."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from torch import nn

from edgevit.checkpoints.checkpoint import Int8Part
from edgevit.errors import QuantizationError
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.qat_model import finished, trainable
from edgevit.quantization.qdq import insert_qdq
from edgevit.quantization.qparams import QParamsTable
from edgevit.quantization.quantized_model import Int8Network, ReferenceNetwork, prepare, restore
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import TinyClassifier, classifier_spec, seeded


def _images(count: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, 3, 32, 32, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def network() -> Int8Network:
    deployed, steps = prepare(seeded(TinyClassifier), classifier_spec())
    corrected, table = calibrate(deployed, _images())
    return Int8Network.settled(corrected, table, steps)


def _alone(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([module(image[None]) for image in images])


def test_int8_outputs_are_close_to_the_float_ones(network):
    images = torch.cat(_images())
    wanted, found = _alone(seeded(TinyClassifier), images), _alone(network.reference(), images)
    noise, signal = (found - wanted).square().sum(), wanted.square().sum()
    assert 10 * torch.log10(signal / noise) > 25


def test_every_reader_has_a_dequantize_of_its_own(network):
    module = network.module()
    operations = Counter(str(node.target) for node in module.graph.nodes)
    assert operations["quantized_decomposed.quantize_per_tensor.default"] >= len(network.table.activations)
    assert operations["quantized_decomposed.dequantize_per_channel.default"] == len(network.table.weights) == 6
    for node in module.graph.nodes:
        if "dequantize_per_tensor" in str(node.target):
            assert len(node.users) == 1


def test_data_movement_repeats_the_qparams():
    net = Function(lambda net, x: net.b(net.a(x).flatten(1)), a=nn.Conv2d(3, 4, 8, stride=8), b=nn.Linear(64, 5))
    deployed, _ = prepare(net, classifier_spec())
    corrected, table = calibrate(deployed, _images())
    pairs = [node for node in insert_qdq(corrected, table).graph.nodes if "quantize_per_tensor.d" in str(node.target)]
    (view,) = (node for node in pairs if "reshape" in str(getattr(node.args[0], "target", "")))
    (conv,) = (node for node in pairs if "conv2d" in str(getattr(node.args[0], "target", "")))
    assert view.args[1:] == conv.args[1:]


def test_trained_network_is_the_one_that_leaves(network):
    module = trainable(network)
    images, targets = torch.cat(_images()), torch.arange(16) % 5
    assert torch.equal(module(images[:1]), network.reference()(images[:1]))
    assert finished(module, network).digest() == network.digest()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(module(images), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = finished(module, network)
    assert losses[-1] < losses[0]
    assert after.digest() != network.digest()
    assert any(after.table.activations[n] != network.table.activations[n] for n in network.table.activations)
    with torch.no_grad():
        assert torch.equal(_alone(module, images), _alone(after.reference(), images))


def test_network_comes_back_from_what_a_checkpoint_stores(network):
    again = restore(network.checkpoint_part())
    assert again.digest() == network.digest()
    assert again.passes == network.passes
    image = _images()[0]
    assert torch.equal(again.module()(image), network.module()(image))


def test_tensors_of_another_network_are_refused(network):
    part = network.checkpoint_part()
    name = next(name for name in part.tensors if name.endswith(".int_repr"))
    for changed in (part.tensors[name][:1], part.tensors[name].float(), None):
        tensors = {key: value for key, value in (part.tensors | {name: changed}).items() if value is not None}
        with pytest.raises(QuantizationError, match="int8 graph is damaged"):
            restore(Int8Part(part.graph, tensors))


def test_table_of_another_graph_is_refused(network):
    qparams = dict(network.table.activations)
    qparams["stranger"] = qparams.pop(next(iter(qparams)))
    with pytest.raises(QuantizationError, match="another graph: 1 tensors without scales"):
        insert_qdq(network.deployed, QParamsTable(qparams, network.table.weights))


def test_concatenated_tensors_get_the_same_qparams():
    net = Function(
        lambda net, x: net.c(torch.cat([net.a(x), 10 * net.b(x)], 1)).mean((2, 3)),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(8, 5, 1),
    )  # fmt: skip
    deployed, steps = prepare(net, classifier_spec())
    corrected, table = calibrate(deployed, _images())
    network = Int8Network(corrected, table, steps)
    (group,) = network.annotation().shared
    assert len({table.activations[name] for name in group}) == 1
    module = trainable(network)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data *= 1.1
    after = finished(module, network)
    assert len({after.table.activations[name] for name in group}) == 1


def test_input_reaches_as_far_as_preprocessing_says():
    deployed, _ = prepare(seeded(TinyClassifier), classifier_spec())
    _, measured = calibrate(deployed, _images())
    corrected, recorded = calibrate(deployed, _images(), (-7.0, 9.0))
    low, high = recorded.activations["x"].range
    assert low <= -7 + recorded.activations["x"].scale
    assert high >= 9 - recorded.activations["x"].scale
    assert {name for name in recorded.activations if recorded.activations[name] != measured.activations[name]} == {"x"}
    trained = trainable(Int8Network(corrected, recorded, ()))
    frozen = [
        name for name, parameter in trained.named_parameters() if "input_range" in name and not parameter.requires_grad
    ]
    assert frozen == ["quantizer_x._input_range_param_storage"]


def test_vectors_reach_as_far_as_any_image():
    net = Function(
        lambda net, x: net.b(net.a(x).mean((2, 3), keepdim=True)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1)
    )
    images = [image * (10 if index == 3 else 1) + index % 2 for index, image in enumerate(_images())]
    deployed, _ = prepare(net.eval(), classifier_spec())
    _, table = calibrate(deployed, images)
    with torch.no_grad():
        pooled = torch.cat([net.a(image).mean((2, 3)) for image in images])
    qparams = table.activations["mean"]
    low, high = qparams.range
    assert low <= pooled.min() + qparams.scale
    assert high >= pooled.max() - qparams.scale


def test_images_that_say_nothing_are_refused(network):
    blank = [torch.zeros(1, 3, 32, 32)] * 4
    with pytest.raises(QuantizationError, match="all 4 calibration images are the same"):
        calibrate(network.deployed, blank)
    with pytest.raises(QuantizationError, match="not finite"):
        calibrate(network.deployed, [torch.full((1, 3, 32, 32), float("nan"))])
    with pytest.raises(QuantizationError, match="no images"):
        calibrate(network.deployed, [])


def test_nobody_is_reported_that_nncf_was_used(network):
    import nncf.telemetry.wrapper

    assert "openvino_telemetry" not in sys.modules
    assert type(nncf.telemetry.wrapper.telemetry).__name__ == "MagicMock"


class Attending(nn.Module):
    """Kernels that sum several images in another way, or would: dense 3x3, a norm, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 64, 3, stride=4), nn.Conv2d(64, 64, 3, padding=1)
        self.norm, self.query, self.head = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2))
        return self.head(((self.query(tokens) @ tokens.transpose(1, 2)).softmax(-1) @ tokens).mean(1))


def test_images_do_not_change_each_others_sums():
    torch.manual_seed(0)
    deployed, steps = prepare(Attending().eval(), classifier_spec())
    corrected, table = calibrate(deployed, _images())
    output, images = ReferenceNetwork(Int8Network.settled(corrected, table, steps)), torch.cat(_images(64))
    with torch.no_grad():
        assert torch.equal(output(images), torch.cat([output(image[None]) for image in images]))


def test_many_images_get_the_outputs_of_each_alone(network, monkeypatch):
    made, reference = [], Int8Network.reference

    def counted(self: Int8Network, *, batched: bool = False) -> nn.Module:
        made.append(batched)
        return reference(self, batched=batched)

    monkeypatch.setattr(Int8Network, "reference", counted)
    output, images = ReferenceNetwork(network), torch.cat([*_images(), *_images(3)])
    with torch.no_grad():
        together = output(images)
        assert made == [False, True]
        assert torch.equal(together, torch.cat([output(image[None]) for image in images]))
        assert torch.equal(together, output(images))
    assert made == [False, True]
