"""Mobile-Former against the official code's goldens, and what its variants promise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from edgevit.models import create_model
from edgevit.models.mobile_former import (
    ChannelShuffle,
    Former,
    HeadRows,
    MapToTokens,
    TokensToMap,
    _merge_head_rows,
)
from tests.edgevit.models.goldens import (
    apply_golden_weights,
    assert_intermediates,
    assert_logits_fp32,
    assert_logits_fp64,
    assert_state_dict_layout,
    load_golden,
)

NAMES = ("mobile_former_26m", "mobile_former_294m")  # grouped with shuffles, and ungrouped


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def golden(name) -> dict:
    return load_golden(name)


@pytest.fixture(scope="module")
def golden_model(name) -> torch.nn.Module:
    return apply_golden_weights(create_model(name))


def test_state_dict_has_official_keys_order_and_shapes(name, golden):
    assert_state_dict_layout(create_model(name), golden)


def test_float32_logits_match_the_official_code(golden_model, golden):
    assert_logits_fp32(golden_model, golden)


def test_float64_logits_match_the_official_code(name, golden):
    assert_logits_fp64(apply_golden_weights(create_model(name)), golden)


def test_map_and_tokens_after_every_block_match_the_official_code(golden_model, golden):
    paths = [path for path in golden["intermediates"] if path.startswith("features.") or path == "local_global"]
    assert len(paths) == len(golden_model.features) + 1
    assert_intermediates(golden_model, golden, {path: path for path in paths})


def test_every_parameter_gets_a_gradient_but_the_key_biases(name):
    model = apply_golden_weights(create_model(name)).double()  # float32 noise would hide the zeros
    model(torch.randn(1, 3, 64, 64, dtype=torch.float64)).square().sum().backward()
    without = {key for key, parameter in model.named_parameters() if parameter.grad.abs().max() < 1e-11}
    # A key bias adds one score to all tokens of a pixel, which the softmax over tokens takes out.
    assert without == {key for key in model.state_dict() if key.endswith("global_local.k.bias")}


@pytest.mark.parametrize("size", [32, 96])
def test_other_class_counts_and_input_sizes_give_logits(name, size):
    model = create_model(name, num_classes=7, input_size=size).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 7)


def test_batch_of_two_equals_two_batches_of_one(golden_model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, apart = golden_model(images), torch.cat([golden_model(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_training_form_has_dropout_and_eval_is_deterministic(name):
    model = create_model(name, num_classes=5, input_size=64)
    assert model.classifier.classifier[0].p == {"mobile_former_26m": 0.1, "mobile_former_294m": 0.3}[name]
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(image), model(image))


def test_shuffle_interleaves_the_groups():
    channels = torch.arange(6.0).reshape(1, 6, 1, 1).expand(1, 6, 2, 3)
    shuffled = ChannelShuffle(2)(channels)
    assert shuffled[0, :, 1, 2].tolist() == [0, 3, 1, 4, 2, 5]


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, L, C) -> (N, heads, L, C / heads), as attention is usually split."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Multi-head attention of (N, L, C) arrays, head by head."""
    mixed = F.scaled_dot_product_attention(_heads(query, heads), _heads(key, heads), _heads(value, heads))
    return mixed.transpose(1, 2).flatten(2)


def _drawn(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that scores differ, in float64, where only rounding is left of a difference."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter[0].numel()))
    return module.double().requires_grad_(False)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_head_rows_are_the_heads_with_zeros_around_them(heads):
    tokens = torch.randn(2, 3, 8)
    rows = HeadRows(8, heads, scale=0.25)(tokens)
    assert rows.shape == (2, heads * 3, 8)
    expected = torch.zeros(2, heads, 3, heads, 8 // heads)
    for head in range(heads):
        expected[:, head, :, head] = 0.25 * _heads(tokens, heads)[:, head]
    assert torch.equal(rows, expected.reshape(2, heads * 3, 8))
    assert torch.equal(_merge_head_rows(rows, heads), 0.25 * tokens)
    assert list(HeadRows(8, heads).state_dict()) == []


def test_merge_takes_each_head_from_its_own_rows():
    rows = torch.arange(2 * 3 * 4).reshape(1, 6, 4)  # 2 heads of 3 tokens
    assert _merge_head_rows(rows, 2).tolist() == [[[0, 1, 14, 15], [4, 5, 18, 19], [8, 9, 22, 23]]]


def test_former_is_multi_head_self_attention():
    former, tokens = _drawn(Former(16)), torch.randn(2, 5, 16, dtype=torch.float64)
    mixed = _attend(former.q(tokens), tokens, tokens, 4)
    attended = former.layer_norm(tokens + former.channel_mlp(mixed))
    expected = former.ffn_norm(attended + former.ffn(attended))
    torch.testing.assert_close(former(tokens), expected, rtol=0, atol=1e-12)


def test_tokens_gather_from_the_map_by_multi_head_attention():
    bridge = _drawn(MapToTokens(8, 16))  # a scale of 1/2, which float32 holds
    x, tokens = torch.randn(2, 8, 5, 3, dtype=torch.float64), torch.randn(2, 4, 16, dtype=torch.float64)
    pixels = x.flatten(2).transpose(1, 2)  # (2, 15, 8)
    gathered = _attend(bridge.q(tokens), pixels, pixels, 2)
    gate = 2 * F.relu6(bridge.alpha(tokens) + 3) / 6  # the paper's hard sigmoid, doubled
    expected = bridge.layer_norm(tokens + bridge.proj(gathered * gate))
    torch.testing.assert_close(bridge(x, tokens), expected, rtol=0, atol=1e-12)


def test_pixels_gather_from_the_tokens_by_multi_head_attention():
    bridge = _drawn(TokensToMap(8, 16))
    x, tokens = torch.randn(2, 8, 5, 3, dtype=torch.float64), torch.randn(2, 4, 16, dtype=torch.float64)
    gathered = _attend(x.flatten(2).transpose(1, 2), bridge.k(tokens), bridge.proj(tokens), 2)
    torch.testing.assert_close(bridge(x, tokens), x + gathered.transpose(1, 2).reshape(x.shape), rtol=0, atol=1e-12)
