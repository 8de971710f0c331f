"""The int8 network in integer arithmetic: rounding, ties, gradients, and where it applies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.quantization.calibration import calibrate
from edgevit.quantization.integer_arithmetic import IntegerKernel, Site, integer_sites, quantize_bias
from edgevit.quantization.quantized_model import Int8Network, prepare
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import classifier_spec

aten = torch.ops.aten


def _scale(*values: float):
    return torch.tensor(values).detach


def _kernel(operation, *scales):
    return IntegerKernel(operation, tuple(scales))


def test_sums_round_ties_up_and_products_to_even():
    a = torch.tensor([1.0, 3.0, -1.0, -3.0])
    half = _kernel(aten.add.Tensor, _scale(1.0), _scale(1.0), _scale(2.0))
    assert half(a, torch.zeros(4)).tolist() == [2.0, 4.0, 0.0, -2.0]
    half = _kernel(aten.mul.Tensor, _scale(1.0), _scale(1.0), _scale(2.0))
    assert half(a, torch.ones(4)).tolist() == [0.0, 4.0, 0.0, -4.0]


def test_difference_takes_the_second_away():
    kernel = _kernel(aten.sub.Tensor, _scale(0.5), _scale(0.25), _scale(0.25))
    assert kernel(torch.tensor([3.5]), torch.tensor([1.25])).item() == 2.25


def test_bilinear_upsampling_rounds_to_steps_and_ties_up():
    kernel = _kernel(aten.upsample_bilinear2d.vec, _scale(0.5), _scale(0.5))
    grown = [kernel(torch.tensor([[[row]]]), None, False, [1.0, 2.0]).flatten() for row in ([0.0, 1.0], [0.0, -1.0])]
    assert [row.tolist() for row in grown] == [[0.0, 0.5, 1.0, 1.0], [0.0, 0.0, -0.5, -1.0]]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (5, 13), (3, 4)])
def test_bilinear_upsampling_equals_that_of_floats_up_to_a_step(align_corners, size):
    x = torch.randint(-128, 128, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0)) * 0.25
    kernel = _kernel(aten.upsample_bilinear2d.vec, _scale(0.25), _scale(0.25))
    grown = kernel(x, size, align_corners, None)
    assert grown.shape == (2, 3, *size)
    assert torch.equal(grown, (grown / 0.25).round() * 0.25)
    exact = aten.upsample_bilinear2d.vec(x.double(), size, align_corners, None)
    assert (grown - exact).abs().max() < 0.25 * 0.6


def test_biases_are_added_as_integers():
    kernel = _kernel(aten.linear.default, _scale(0.5), _scale(0.5, 0.25), _scale(0.125))
    weight, bias = torch.tensor([[1.0], [0.5]]), torch.tensor([0.37, 0.07])
    assert kernel(torch.tensor([[2.0]]), weight, bias).tolist() == [[2.25, 1.125]]
    settled = quantize_bias(bias, 0.5, torch.tensor([0.5, 0.25]))
    assert settled.tolist() == [0.25, 0.125]
    assert quantize_bias(settled, 0.5, torch.tensor([0.5, 0.25])).equal(settled)


@pytest.mark.parametrize("channels", [8, 3000])
def test_convolutions_sum_exactly_whatever_their_size(channels):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-255, 256, (1, channels, 6, 6), generator=random)
    weight = torch.randint(-127, 128, (16, channels, 3, 3), generator=random)
    kernel = _kernel(aten.conv2d.default, _scale(1.0), _scale(*[1.0] * 16), _scale(2.0**-20))
    wanted = aten.conv2d.default(x.double(), weight.double(), None, [1, 1], [1, 1])
    assert torch.equal(kernel(x.float(), weight.float(), None, [1, 1], [1, 1]).double(), wanted.float().double())


def test_gradients_are_those_of_the_float_operation():
    kernel = _kernel(aten.linear.default, _scale(1.0), _scale(1.0), _scale(64.0))
    x, weight = torch.tensor([[5.0, 7.0]], requires_grad=True), torch.tensor([[3.0, 2.0]], requires_grad=True)
    result = kernel(x, weight, None)
    result.backward()
    assert result.item() == 0.0  # 29 of 64
    assert x.grad.tolist() == [[3.0, 2.0]]
    assert weight.grad.tolist() == [[5.0, 7.0]]


def test_bias_may_be_left_out():
    kernel = _kernel(aten.conv2d.default, _scale(1.0), _scale(1.0), _scale(1.0))
    x, weight = torch.full((1, 2, 1, 1), 3.0), torch.full((1, 2, 1, 1), 2.0)
    assert kernel(x, weight).item() == kernel(x, weight, None).item() == 12.0


class _Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, x):
        return torch.relu(self.a(x) + self.b(x)).flatten(1)


def _network(net: nn.Module) -> Int8Network:
    generator = torch.Generator().manual_seed(3)
    images = [torch.randn(1, 3, 32, 32, generator=generator) for _ in range(16)]
    deployed, steps = prepare(net.eval(), classifier_spec())
    return Int8Network.settled(*calibrate(deployed, images), steps)


def _sites(net: nn.Module) -> tuple[Site, ...]:
    network = _network(net)
    return integer_sites(network.deployed, network.annotation())


def test_sum_is_rescaled_onto_the_qparams_behind_its_fused_activation():
    torch.manual_seed(0)
    (total,) = (site for site in _sites(_Fused()) if not site.weighted)
    assert (total.inputs, total.output) == (("conv2d", "conv2d_1"), "relu")


def test_operations_kept_in_float_are_left_alone():
    torch.manual_seed(0)
    net = Function(lambda net, x: net.a(x).flatten(1).softmax(1) * 3 + 1, a=nn.Conv2d(3, 4, 8, stride=8))
    assert [site.name for site in _sites(net)] == ["conv2d"]


def test_batch_and_single_images_are_bit_exact():
    torch.manual_seed(0)
    network = _network(_Fused())
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    single = network.reference()
    with torch.no_grad():
        alone = torch.cat([single(image[None]) for image in images])
        assert torch.equal(network.reference(batched=True)(images), alone)


def test_result_that_is_always_zero_gets_qparams_that_kernels_can_rescale_onto():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 32), nn.ReLU(), nn.Flatten())
    nn.init.constant_(net[0].bias, -1e4)
    network = _network(net)
    (site,) = _sites(net)
    step = network.table.activations[site.inputs[0]].scale * float(network.table.weights[site.name].scales.max())
    assert 64 < step / network.table.activations[site.output].scale <= 128
