"""U-Net, plain and with SegNetr's skips."""

from __future__ import annotations

import pytest
import torch

from edgevit.errors import UsageError
from edgevit.models import get_spec
from edgevit.models.counting import count_macs, count_params
from edgevit.models.unet import UNet
from edgevit.spec import Task

NAMES = ("unet", "unet_irsc")


def _small(*, irsc: bool) -> UNet:
    torch.manual_seed(0)
    return UNet(3, width=4, irsc=irsc).eval()


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_documented_ones(name):
    spec = get_spec(name)
    model = spec.build(1, 224)
    assert count_params(model) == spec.params
    assert count_macs(model, spec.inputs[0].shape) == spec.macs
    assert spec.task is Task.SEGMENT


@pytest.mark.parametrize("irsc", [False, True])
@pytest.mark.parametrize("size", [16, 48, 64])
def test_map_has_the_size_of_the_image(irsc, size):
    with torch.no_grad():
        assert _small(irsc=irsc)(torch.randn(2, 3, size, size)).shape == (2, 3, size, size)


@pytest.mark.parametrize("irsc", [False, True])
def test_gradients_reach_every_parameter(irsc):
    model = _small(irsc=irsc).train()
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_irsc_hands_on_every_pixel_of_the_channels_that_it_keeps():
    """What goes down is the skip itself, rearranged: no maximum is taken, and the other channels go nowhere."""
    model, seen = _small(irsc=True), {}
    model.encoder[0].register_forward_hook(lambda module, inputs, output: seen.update(above=output))
    model.encoder[1].register_forward_hook(lambda module, inputs, output: seen.update(below=inputs[0]))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert seen["above"].shape[1] == 4
    assert seen["below"].shape[1:] == (8, 16, 16)
    assert torch.equal(seen["above"][:, ::2].flatten().sort().values, seen["below"].flatten().sort().values)


def test_size_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match="multiple of 16"):
        get_spec("unet").for_task(input_size=40)
