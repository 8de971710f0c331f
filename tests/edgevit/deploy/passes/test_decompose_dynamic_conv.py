"""Computed kernels as shifted products, and what is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgevit.deploy.passes.decompose_dynamic_conv import DECOMPOSE_DYNAMIC_CONV
from edgevit.models.dwnet import DynamicDepthwise, InhomogeneousDepthwise
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops, settled

_MAP = (1, 64, 6, 5)


def _largest_rank(graph) -> int:
    return max(node.meta["val"].dim() for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor))


@pytest.mark.parametrize("layer", [DynamicDepthwise, InhomogeneousDepthwise])
def test_layer_becomes_products_of_rank_4(layer):
    torch.manual_seed(0)
    module = settled(layer(64))
    graph = graph_of(module, _MAP)
    assert len(DECOMPOSE_DYNAMIC_CONV.apply(graph, XNNPACK)) == 1
    counts = ops(graph)
    assert (counts["mul.Tensor"], counts["im2col.default"], counts["sum.dim_IntList"]) == (49, 0, 0)
    assert counts["conv2d.default"] == 2  # those that compute the kernels
    assert _largest_rank(graph) == 4
    assert error(graph, module, _MAP) <= 1e-6


def test_kernels_of_each_pixel_may_come_for_several_images():
    module = settled(InhomogeneousDepthwise(32))
    graph = graph_of(module, (3, 32, 4, 7))
    assert DECOMPOSE_DYNAMIC_CONV.apply(graph, XNNPACK)
    assert error(graph, module, (3, 32, 4, 7)) <= 1e-6


def _computed(**options):
    """A depthwise convolution by kernels (6, 1, 3, 5) that a second input gives."""
    return Function(lambda net, x, kernels: F.conv2d(x, kernels, groups=6, **options))


_KERNELS = (6, 1, 3, 5)


@pytest.mark.parametrize("padding", [0, 1, (1, 2), (2, 0)])
def test_any_padding_and_kernel_shape(padding):
    module = _computed(padding=padding)
    graph = graph_of(module, (1, 6, 7, 8), _KERNELS)
    assert DECOMPOSE_DYNAMIC_CONV.apply(graph, XNNPACK)
    assert error(graph, module, (1, 6, 7, 8), _KERNELS) <= 1e-6


def test_computed_bias_is_added():
    module = Function(lambda net, x, kernels, bias: F.conv2d(x, kernels, bias, groups=6))
    shapes = (1, 6, 7, 8), _KERNELS, (6,)
    graph = graph_of(module, *shapes)
    assert DECOMPOSE_DYNAMIC_CONV.apply(graph, XNNPACK)
    assert error(graph, module, *shapes) <= 1e-6


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}], ids=str)
def test_strides_and_dilations_stay(options):
    assert changes_nothing(DECOMPOSE_DYNAMIC_CONV, _computed(**options), (1, 6, 7, 9), _KERNELS)


def test_several_images_constant_kernels_and_dense_ones_stay():
    assert changes_nothing(DECOMPOSE_DYNAMIC_CONV, _computed(), (2, 6, 7, 8), _KERNELS)
    assert changes_nothing(DECOMPOSE_DYNAMIC_CONV, nn.Conv2d(6, 6, 3, groups=6), (1, 6, 7, 8))
    dense = Function(lambda net, x, kernels: F.conv2d(x, kernels))
    assert changes_nothing(DECOMPOSE_DYNAMIC_CONV, dense, (1, 6, 7, 8), (6, 6, 3, 3))


def test_other_sums_over_unfolded_patches_stay():
    def unpadded(net, x, weights):
        return (F.unfold(x, 3).reshape(2, 3, 9, 20) * weights).sum(2).reshape(1, 6, 4, 5)

    assert changes_nothing(DECOMPOSE_DYNAMIC_CONV, Function(unpadded), (1, 6, 6, 7), (2, 1, 9, 20))

    def strangely_weighed(net, x, weights):
        return (
            (F.unfold(x, 3, padding=1).reshape(2, 3, 9, 42) * weights.reshape(2, 1, 9, 42)).sum(2).reshape(1, 6, 6, 7)
        )

    assert changes_nothing(DECOMPOSE_DYNAMIC_CONV, Function(strangely_weighed), (1, 6, 6, 7), (1, 9, 42, 2))
