"""Annotation: what computes in int8, what is kept in float, and what shares quantization parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.passes.decompose_layer_norm import DECOMPOSE_LAYER_NORM
from edgevit.quantization.annotation import annotate
from tests.edgevit.deploy.rewriting import XNNPACK, Function, graph_of

_MAP = (1, 4, 6, 6)


def _names(nodes) -> list[str]:
    return [str(node.target).removeprefix("aten.").split(".")[0] for node in nodes]


def _placed(function, *, shape=_MAP, **modules):
    graph = graph_of(Function(function, **modules), shape)
    return annotate(graph)


def test_convolutions_and_what_lies_between_them_are_int8():
    annotation = _placed(
        lambda net, x: net.b(torch.nn.functional.gelu(net.a(x)) + x), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 2, 1)
    )
    assert _names(annotation.weighted) == ["conv2d", "conv2d"]
    assert _names(annotation.integer) == ["gelu", "add"]
    assert _names(annotation.quantized) == ["inputs_0", "conv2d", "gelu", "add", "conv2d"]
    assert not annotation.kept_in_float


def test_fused_activation_belongs_to_the_convolution_in_front():
    annotation = _placed(lambda net, x: net.b(net.a(x).relu()), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 2, 1))
    assert _names(annotation.quantized) == ["inputs_0", "relu", "conv2d"]


def test_fused_activation_that_is_not_the_only_reader_stands_alone():
    def function(net, x):
        y = net.a(x)
        return net.b(y.relu()) + y

    annotation = _placed(function, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
    assert _names(annotation.quantized) == ["inputs_0", "conv2d", "relu", "conv2d", "add"]


def test_concatenation_and_its_inputs_share_qparams():
    annotation = _placed(
        lambda net, x: net.c(torch.cat([net.a(x), net.b(x).reshape(1, 4, 6, 6)], 1)),
        a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    (group,) = annotation.shared
    assert group == {"conv2d", "conv2d_1", "cat"}


@pytest.mark.parametrize(
    "resized",
    [lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"), lambda x: nn.functional.avg_pool2d(x, 2)],
    ids=["bilinear", "average"],
)
def test_kernels_that_do_not_rescale_keep_the_qparams(resized):
    annotation = _placed(lambda net, x: net.b(resized(net.a(x).relu())), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
    (group,) = annotation.shared
    assert len(group) == 2
    assert "relu" in group


def test_layer_norm_in_products_is_kept_in_float():
    def function(net, x):
        return net.b(net.norm(net.a(x).flatten(2).transpose(1, 2)))

    graph = graph_of(Function(function, a=nn.Conv2d(4, 8, 1), norm=nn.LayerNorm(8), b=nn.Linear(8, 3)), _MAP)
    DECOMPOSE_LAYER_NORM.apply(graph, XNNPACK)
    annotation = annotate(graph)
    assert _names(annotation.weighted) == ["conv2d", "linear"]
    assert sorted(_names(annotation.kept_in_float)) == ["add", "conv2d", "conv2d", "mul", "mul", "mul", "rsqrt", "sub"]
    assert annotation.float_fallback() == {"norm": 8}
    # The norm's result is read by a linear layer: it is quantized although it was computed in float.
    assert _names(annotation.quantized) == ["inputs_0", "conv2d", "add", "linear"]


def test_attention_is_float_between_int8_layers():
    def function(net, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = net.q(tokens), net.k(tokens), net.v(tokens)
        return net.out((q @ k.transpose(1, 2)).softmax(-1) @ v)

    layers = {name: nn.Linear(4, 4) for name in ("q", "k", "v", "out")}
    annotation = _placed(function, **layers)
    assert _names(annotation.weighted) == ["linear"] * 4
    assert sorted(_names(annotation.kept_in_float)) == ["matmul", "matmul", "softmax"]


def test_arithmetic_with_a_constant_is_float():
    annotation = _placed(lambda net, x: net.a(x) * 0.5 + 1, a=nn.Conv2d(4, 4, 1))
    assert _names(annotation.kept_in_float) == ["mul", "add"]


def test_layer_with_a_computed_weight_stays_in_float():
    annotation = _placed(lambda net, x: torch.nn.functional.conv2d(x, x.mean((2, 3)).reshape(1, 4, 1, 1)))
    assert not annotation.weighted
    assert "conv2d" in _names(annotation.kept_in_float)
