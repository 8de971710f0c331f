"""The DWNets against the official code's goldens, and their computed kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgevit.models import create_model
from edgevit.models.dwnet import DynamicDepthwise, InhomogeneousDepthwise, PatchMerging
from tests.edgevit.models.goldens import (
    apply_golden_weights,
    assert_intermediates,
    assert_logits_fp32,
    assert_logits_fp64,
    assert_state_dict_layout,
    load_golden,
)


@pytest.fixture(scope="module", params=["dwnet_tiny", "dynamic_dwnet_tiny", "i_dynamic_dwnet_tiny"])
def golden(request) -> dict:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def golden_model(golden) -> torch.nn.Module:
    return apply_golden_weights(create_model(golden["variant"]))


def test_state_dict_has_official_keys_order_and_shapes(golden, golden_model):
    assert_state_dict_layout(golden_model, golden)


def test_float32_logits_and_stages_match_the_official_code(golden_model, golden):
    assert_logits_fp32(golden_model, golden)
    assert_intermediates(golden_model, golden, {path: path for path in golden["intermediates"]})


def test_float64_logits_match_the_official_code(golden_model, golden):
    assert_logits_fp64(golden_model, golden)
    golden_model.float()


@pytest.mark.parametrize("name", ["dwnet_base", "i_dynamic_dwnet_base"])
def test_drop_path_grows_through_all_blocks(name):
    with torch.device("meta"):
        model = create_model(name)
    rates = [block.drop_path.rate for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([0.5 * block / 23 for block in range(24)])


def test_dynamic_kernels_are_those_of_each_image():
    torch.manual_seed(0)
    layer = DynamicDepthwise(8).eval()
    torch.nn.init.normal_(layer.bias)
    images = torch.randn(2, 8, 5, 6)
    for image, got in zip(images, layer(images), strict=True):
        hidden = F.relu(layer.bn(layer.conv1(image.mean((1, 2)).reshape(1, 8, 1, 1))))
        kernels = layer.conv2(hidden).reshape(8, 1, 7, 7)
        expected = F.conv2d(image[None], kernels, layer.bias, padding=3, groups=8)[0]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_inhomogeneous_kernels_are_those_of_each_pixel_and_group():
    torch.manual_seed(0)
    layer = InhomogeneousDepthwise(64).eval()
    x = torch.randn(1, 64, 4, 5)
    kernels = layer.conv2(layer.conv1(x)).reshape(32, 7, 7, 4, 5)
    padded = F.pad(x, (3, 3, 3, 3))[0]
    expected = torch.zeros(64, 4, 5)
    for channel in range(64):
        for row in range(4):
            for column in range(5):
                patch = padded[channel, row : row + 7, column : column + 7]
                expected[channel, row, column] = (patch * kernels[channel // 2, :, :, row, column]).sum()
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_merging_counts_pixels_column_by_column():
    merging = PatchMerging(2).eval()
    torch.nn.init.eye_(merging.reduction.weight)  # the first 4 of 8 channels: the left column
    x = torch.randn(1, 2, 4, 6)
    phases = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    expected = merging.norm(torch.cat(phases, 1))[:, :4]
    torch.testing.assert_close(merging(x), expected)
