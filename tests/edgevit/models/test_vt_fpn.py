"""VT-FPN: its levels, and how their tokens meet."""

from __future__ import annotations

import pytest
import torch

from edgevit.models import get_spec
from tests.families import build


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("vt_fpn").eval()


def test_levels_have_one_width_and_halving_sizes(model):
    with torch.no_grad():
        levels = model.forward_features(torch.randn(2, 3, 64, 64))
    assert [tuple(level.shape) for level in levels] == [(2, 256, side, side) for side in (16, 8, 4, 2)]


def test_every_level_sees_what_the_tokens_of_the_others_say(model):
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    seen = []
    hook = model.transformer.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    levels = model.forward_features(image)
    hook.remove()
    assert seen[0].shape == (1, 32, 1024)  # 8 of each level
    for level in levels:
        (gradient,) = torch.autograd.grad(level.sum(), seen[0], retain_graph=True)
        assert (gradient.abs().amax(-1) > 0).all()


def test_logits_have_the_size_of_the_image(model):
    with torch.no_grad():
        assert model(torch.randn(1, 3, 96, 96)).shape == (1, 5, 96, 96)


def test_backbone_has_the_names_and_size_of_resnet50():
    spec = get_spec("vt_fpn_r50")
    with torch.device("meta"):
        names = dict(spec.build(20, 480).named_parameters())
    backbone = {name: p for name, p in names.items() if name.startswith(("conv1", "bn1", "layer"))}
    assert sum(p.numel() for p in backbone.values()) == 25_557_032 - 2048 * 1000 - 1000  # torchvision's, less its head
    assert {"layer1.0.downsample.0.weight", "layer4.2.conv3.weight"} <= backbone.keys()
