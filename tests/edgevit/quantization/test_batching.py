"""Graphs captured for one picture take several, whatever their views count on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.capture import capture, example_input, functional
from edgevit.errors import QuantizationError
from edgevit.quantization.batching import any_batch
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import TinyClassifier, TinySegmenter, seeded

_MAP = (1, 4, 6, 6)


def _heads(net, x):
    """Attention whose views drop the batch of one and bring the heads to the front."""
    tokens = x.reshape(4, 36).transpose(0, 1)
    q = net.q(tokens).reshape(36, 2, 2).permute(1, 0, 2)
    k = x.reshape(2, 2, 36)
    return (torch.bmm(q, k).softmax(-1) @ q).permute(1, 0, 2).reshape(1, 144)


CASES = {
    "views without the batch": (_heads, {"q": nn.Linear(4, 4)}),
    "constant factor": (lambda net, x: torch.bmm(net.w, x.reshape(4, 6, 6)).reshape(1, -1), {"w": (4, 3, 6)}),
    "constant part": (lambda net, x: torch.cat([net.w, x.flatten(2)], 1).sum(1), {"w": (1, 5, 36)}),
    "other ranks": (lambda net, x: x * x.mean((0, 2, 3)) [:, None, None] + x.amax(1), {}),
    "mean over all": (lambda net, x: (x - x.mean()).reshape(1, -1), {}),
    "slices": (lambda net, x: x[:, 1:3, ::2].select(1, 0).softmax(-1), {}),
    "norm": (lambda net, x: net.norm(x).unsqueeze(1).squeeze(1).flatten(1), {"norm": nn.BatchNorm2d(4)}),
    "pooling": (lambda net, x: nn.functional.max_pool2d(x, 2) + nn.functional.adaptive_avg_pool2d(x, 1), {}),
    "expand": (lambda net, x: x.mean(1, keepdim=True).expand(1, 3, 6, 6).transpose(1, 2), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_picture_gets_its_own_answer(case):
    function, parts = CASES[case]
    net = Function(function).eval()
    for name, part in parts.items():
        setattr(net, name, part if isinstance(part, nn.Module) else nn.Parameter(torch.randn(part)))
    one = functional(capture(net.eval(), (example_input(_MAP),), "net"))
    pictures = torch.randn(3, *_MAP[1:])
    expected = torch.cat([one(picture[None]) for picture in pictures])
    torch.testing.assert_close(any_batch(one)(pictures), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [TinyClassifier, TinySegmenter])
def test_networks_keep_their_gradients(build):
    net = seeded(build)
    module = any_batch(functional(capture(net, (example_input((1, 3, 32, 32)),), "net")))
    pictures = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(module(pictures), net(pictures), rtol=1e-4, atol=1e-5)
    module(pictures).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)


def test_operation_that_does_not_know_another_axis_is_named():
    net = Function(lambda net, x: net.conv(x.flatten(2)), conv=nn.Conv1d(4, 2, 3))
    one = functional(capture(net.eval(), (example_input(_MAP),), "net"))
    with pytest.raises(QuantizationError, match="several pictures"):
        any_batch(one)
