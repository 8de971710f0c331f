"""Graphs captured for one image take several, whatever their views count on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ExportError
from edgevit.graph.capture import capture, example_input, functional
from edgevit.graph.dynamic_batch import any_batch, sum_alone
from tests.edgevit.deploy.rewriting import Function, settled
from tests.families import build, spec_of
from tests.tiny import TinyClassifier, TinySegmenter, seeded

_MAP = (1, 4, 6, 6)


def _heads(net, x):
    """Attention whose views drop the batch of one and bring the heads to the front."""
    tokens = x.reshape(4, 36).transpose(0, 1)
    q = net.q(tokens).reshape(36, 2, 2).permute(1, 0, 2)
    k = x.reshape(2, 2, 36)
    return (torch.bmm(q, k).softmax(-1) @ q).permute(1, 0, 2).reshape(1, 144)


def _fused(net, x):
    heads = x.reshape(1, 2, 2, 36).transpose(-1, -2)
    return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


def _split_heads(net, x):
    """Queries, keys and values come apart on an axis in front of that of the images."""
    q, k, v = x.flatten(2).reshape(1, 12, 3, 2, 2).permute(2, 0, 3, 1, 4)
    return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1)


CASES = {
    "views without the batch": (_heads, {"q": nn.Linear(4, 4)}),
    "constant factor": (lambda net, x: torch.bmm(net.w, x.reshape(4, 6, 6)).reshape(1, -1), {"w": (4, 3, 6)}),
    "constant part": (lambda net, x: torch.cat([net.w, x.flatten(2)], 1).sum(1), {"w": (1, 5, 36)}),
    "other ranks": (lambda net, x: x * x.mean((0, 2, 3)) [:, None, None] + x.amax(1), {}),
    "mean over all": (lambda net, x: (x - x.mean()).reshape(1, -1), {}),
    "slices": (lambda net, x: x[:, 1:3, ::2].select(1, 0).softmax(-1), {}),
    "norm": (lambda net, x: net.norm(x).unsqueeze(1).squeeze(1).flatten(1), {"norm": nn.BatchNorm2d(4)}),
    "pooling": (lambda net, x: nn.functional.max_pool2d(x, 2) + nn.functional.adaptive_avg_pool2d(x, 1), {}),
    "constant rows": (lambda net, x: torch.cat([net.w, x], 2), {"w": (1, 4, 2, 6)}),
    "images on top of each other": (lambda net, x: torch.cat([x, 2 * x]).sum(0, keepdim=True), {}),
    "chosen channels": (lambda net, x: x[:, torch.tensor([2, 0])] + x.reshape(4, 6, 6)[torch.tensor([1, 3])], {}),
    "parts": (lambda net, x: sum(x.split(2, 1)) * x.reshape(2, 2, 36).unbind(1)[0].reshape(1, 2, 6, 6), {}),
    "fused attention": (_fused, {}),
    "attention as in ViT": (_split_heads, {}),
    "maps of their own": (lambda net, x: net.conv(x.reshape(2, 2, 6, 6)).reshape(1, -1), {"conv": nn.Conv2d(2, 3, 3)}),
    "token norm": (lambda net, x: net.norm(x.reshape(4, 36)).reshape(1, 144), {"norm": nn.LayerNorm(36)}),
    "broadcast product": (lambda net, x: torch.bmm(net.w, x.reshape(1, 4, 36)), {"w": (1, 3, 4)}),
    "slopes": (lambda net, x: net.slopes(x.reshape(2, 2, 6, 6)).reshape(1, -1), {"slopes": nn.PReLU(2)}),
    "expand": (lambda net, x: x.mean(1, keepdim=True).expand(1, 3, 6, 6).transpose(1, 2), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_image_gets_its_own_output(case):
    function, parts = CASES[case]
    net = Function(function).eval()
    for name, part in parts.items():
        setattr(net, name, part if isinstance(part, nn.Module) else nn.Parameter(torch.randn(part)))
    one = functional(capture(net.eval(), (example_input(_MAP),), "net"))
    images = torch.randn(3, *_MAP[1:])
    expected = torch.cat([one(image[None]) for image in images])
    torch.testing.assert_close(any_batch(one)(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["mobile_former", "segnetr", "vt_resnet"])
def test_sums_of_one_image_do_not_depend_on_others(family):
    torch.manual_seed(0)
    deployed, _ = deploy(build(family).eval(), spec_of(family))
    module, images = any_batch(deployed), torch.randn(24, 3, 32, 32)
    with torch.no_grad():
        alone = torch.cat([deployed(image[None]) for image in images])
        assert not torch.equal(module(images), alone)
        sum_alone(module)
        assert torch.equal(module(images), alone)


@pytest.mark.parametrize("build", [TinyClassifier, TinySegmenter])
def test_batch_rides_on_the_axis_that_is_there(build):
    one = functional(capture(seeded(build), (example_input((1, 3, 32, 32)),), "net"))
    assert len(any_batch(one).graph.nodes) == len(one.graph.nodes)


@pytest.mark.parametrize("build", [TinyClassifier, TinySegmenter])
def test_networks_keep_their_gradients(build):
    net = seeded(build)
    module = any_batch(functional(capture(net, (example_input((1, 3, 32, 32)),), "net")))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(module(images), net(images), rtol=1e-4, atol=1e-5)
    module(images).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)


def test_operation_that_does_not_know_another_axis_is_named():
    net = Function(lambda net, x: net.conv(x.flatten(2)), conv=nn.Conv1d(4, 2, 3))
    one = functional(capture(net.eval(), (example_input(_MAP),), "net"))
    with pytest.raises(ExportError, match="several images"):
        any_batch(one)


@pytest.mark.parametrize(
    "family", ["cvt", "pervit", "dwnet", "dynamic_dwnet", "i_dynamic_dwnet", "local_vit", "vt_fpn"]
)
def test_every_family_takes_a_batch_as_servers_deploy_it(family):
    torch.manual_seed(0)
    network = settled(build(family))
    deployed, _ = deploy(network, spec_of(family), kernels="server")
    images = example_input((3, 3, 32, 32), seed=3)
    with torch.no_grad():
        wanted, together = network(images), any_batch(deployed)(images)
    assert (together - wanted).abs().max() <= 1e-5 * wanted.abs().max()
