"""The int8 network: pairs in its graph, training, storing; what is trained is what leaves, to the bit."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from torch import nn

from edgevit.errors import QuantizationError
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.qat_model import finished, trainable
from edgevit.quantization.qdq import insert_grids
from edgevit.quantization.qparams import ScaleTable
from edgevit.quantization.quantized_model import Int8Network, ReferenceNetwork, prepare, restore
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import TinyClassifier, classifier_spec, seeded


def _pictures(count: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, 3, 32, 32, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def network() -> Int8Network:
    deployed, steps = prepare(seeded(TinyClassifier), classifier_spec())
    corrected, table = calibrate(deployed, _pictures())
    return Int8Network.settled(corrected, table, steps)


def _alone(module: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([module(picture[None]) for picture in pictures])


def test_int8_answers_are_close_to_the_float_ones(network):
    pictures = torch.cat(_pictures())
    wanted, found = _alone(seeded(TinyClassifier), pictures), _alone(network.reference(), pictures)
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


def test_data_movement_repeats_the_grid():
    net = Function(lambda net, x: net.b(net.a(x).flatten(1)), a=nn.Conv2d(3, 4, 8, stride=8), b=nn.Linear(64, 5))
    deployed, _ = prepare(net, classifier_spec())
    corrected, table = calibrate(deployed, _pictures())
    pairs = [node for node in insert_grids(corrected, table).graph.nodes if "quantize_per_tensor.d" in str(node.target)]
    (view,) = (node for node in pairs if "reshape" in str(getattr(node.args[0], "target", "")))
    (conv,) = (node for node in pairs if "conv2d" in str(getattr(node.args[0], "target", "")))
    assert view.args[1:] == conv.args[1:]


def test_trained_network_is_the_one_that_leaves(network):
    module = trainable(network)
    pictures, targets = torch.cat(_pictures()), torch.arange(16) % 5
    assert torch.equal(module(pictures[:1]), network.reference()(pictures[:1]))
    assert finished(module, network).digest() == network.digest()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(module(pictures), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = finished(module, network)
    assert losses[-1] < losses[0]
    assert after.digest() != network.digest()
    assert any(after.table.activations[n] != network.table.activations[n] for n in network.table.activations)
    with torch.no_grad():
        assert torch.equal(_alone(module, pictures), _alone(after.reference(), pictures))


def test_network_comes_back_from_what_a_checkpoint_stores(network):
    again = restore(seeded(TinyClassifier), classifier_spec(), network.tensors(), network.activations())
    assert again.digest() == network.digest()
    picture = _pictures()[0]
    assert torch.equal(again.module()(picture), network.module()(picture))


def test_tensors_of_another_network_are_refused(network):
    tensors = network.tensors()
    name = next(name for name in tensors if name.endswith(".values"))
    with pytest.raises(QuantizationError, match="does not fit"):
        restore(seeded(TinyClassifier), classifier_spec(), tensors | {name: tensors[name][:1]}, network.activations())
    del tensors[name]
    with pytest.raises(QuantizationError, match="does not fit"):
        restore(seeded(TinyClassifier), classifier_spec(), tensors, network.activations())


def test_table_of_another_graph_is_refused(network):
    grids = dict(network.table.activations)
    grids["stranger"] = grids.pop(next(iter(grids)))
    with pytest.raises(QuantizationError, match="another graph: 1 tensors without scales"):
        insert_grids(network.deployed, ScaleTable(grids, network.table.weights))


def test_concatenated_tensors_get_one_grid():
    net = Function(
        lambda net, x: net.c(torch.cat([net.a(x), 10 * net.b(x)], 1)).mean((2, 3)),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(8, 5, 1),
    )  # fmt: skip
    deployed, steps = prepare(net, classifier_spec())
    corrected, table = calibrate(deployed, _pictures())
    network = Int8Network(corrected, table, steps)
    (group,) = network.placement().shared
    assert len({table.activations[name] for name in group}) == 1
    module = trainable(network)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data *= 1.1
    after = finished(module, network)
    assert len({after.table.activations[name] for name in group}) == 1


def test_input_reaches_as_far_as_preprocessing_says():
    deployed, _ = prepare(seeded(TinyClassifier), classifier_spec())
    _, measured = calibrate(deployed, _pictures())
    corrected, told = calibrate(deployed, _pictures(), (-7.0, 9.0))
    low, high = told.activations["x"].range
    assert low <= -7 + told.activations["x"].scale
    assert high >= 9 - told.activations["x"].scale
    assert {name for name in told.activations if told.activations[name] != measured.activations[name]} == {"x"}
    trained = trainable(Int8Network(corrected, told, ()))
    frozen = [
        name for name, parameter in trained.named_parameters() if "input_range" in name and not parameter.requires_grad
    ]
    assert frozen == ["quantizer_x._input_range_param_storage"]


def test_vectors_reach_as_far_as_any_picture():
    net = Function(
        lambda net, x: net.b(net.a(x).mean((2, 3), keepdim=True)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1)
    )
    pictures = [picture * (10 if index == 3 else 1) + index % 2 for index, picture in enumerate(_pictures())]
    deployed, _ = prepare(net.eval(), classifier_spec())
    _, table = calibrate(deployed, pictures)
    with torch.no_grad():
        pooled = torch.cat([net.a(picture).mean((2, 3)) for picture in pictures])
    grid = table.activations["mean"]
    low, high = grid.range
    assert low <= pooled.min() + grid.scale
    assert high >= pooled.max() - grid.scale


def test_pictures_that_say_nothing_are_refused(network):
    blank = [torch.zeros(1, 3, 32, 32)] * 4
    with pytest.raises(QuantizationError, match="all 4 calibration pictures are the same"):
        calibrate(network.deployed, blank)
    with pytest.raises(QuantizationError, match="not finite"):
        calibrate(network.deployed, [torch.full((1, 3, 32, 32), float("nan"))])
    with pytest.raises(QuantizationError, match="no pictures"):
        calibrate(network.deployed, [])


def test_nobody_is_told_that_nncf_was_used(network):
    import nncf.telemetry.wrapper

    assert "openvino_telemetry" not in sys.modules
    assert type(nncf.telemetry.wrapper.telemetry).__name__ == "MagicMock"


class Attending(nn.Module):
    """Kernels that sum several pictures in another way, or would: dense 3x3, a norm, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 64, 3, stride=4), nn.Conv2d(64, 64, 3, padding=1)
        self.norm, self.query, self.head = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2))
        return self.head(((self.query(tokens) @ tokens.transpose(1, 2)).softmax(-1) @ tokens).mean(1))


def test_pictures_do_not_change_each_others_sums():
    torch.manual_seed(0)
    deployed, steps = prepare(Attending().eval(), classifier_spec())
    corrected, table = calibrate(deployed, _pictures())
    answer, pictures = ReferenceNetwork(Int8Network.settled(corrected, table, steps)), torch.cat(_pictures(64))
    with torch.no_grad():
        assert torch.equal(answer(pictures), torch.cat([answer(picture[None]) for picture in pictures]))


def test_many_pictures_get_the_answers_of_each_alone(network, monkeypatch):
    made, reference = [], Int8Network.reference

    def counted(self: Int8Network, *, batched: bool = False) -> nn.Module:
        made.append(batched)
        return reference(self, batched=batched)

    monkeypatch.setattr(Int8Network, "reference", counted)
    answer, pictures = ReferenceNetwork(network), torch.cat([*_pictures(), *_pictures(3)])
    with torch.no_grad():
        together = answer(pictures)
        assert made == [False, True]
        assert torch.equal(together, torch.cat([answer(picture[None]) for picture in pictures]))
        assert torch.equal(together, answer(pictures))
    assert made == [False, True]
