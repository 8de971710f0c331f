"""The shared norms against nn.LayerNorm, in every dtype and mode that takes its own path."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.models.layers import DropPath, LayerNorm2d, TokenNorm


def _reference(norm: nn.Module, channels_last: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(channels_last, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def _randomised(norm: nn.Module) -> nn.Module:
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_norms_equal_layer_norm_after_a_cast(dtype, tolerance):
    over_map, over_tokens = _randomised(LayerNorm2d(24)).to(dtype), _randomised(TokenNorm(24)).to(dtype)
    image, tokens = torch.randn(2, 24, 3, 5, dtype=dtype), torch.randn(2, 6, 24, dtype=dtype)
    expected = _reference(over_map, image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(over_map(image), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(over_tokens(tokens), _reference(over_tokens, tokens), rtol=0, atol=tolerance)


def test_norms_keep_float32_under_autocast():
    over_map, over_tokens = LayerNorm2d(24), TokenNorm(24)
    image, tokens = torch.randn(2, 24, 3, 5), torch.randn(2, 6, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_map, cast_tokens = over_map(image), over_tokens(tokens)
    torch.testing.assert_close(cast_map, over_map(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(cast_tokens, over_tokens(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm2d, TokenNorm])
def test_norms_save_only_weight_and_bias(norm):
    assert list(norm(4).state_dict()) == ["weight", "bias"]
    assert [name for name, _ in norm(4).named_parameters()] == ["weight", "bias"]
    norm(4).load_state_dict(nn.LayerNorm(4).state_dict())  # strict: no key more, none less


@pytest.mark.parametrize("norm", [LayerNorm2d, TokenNorm])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_constants_are_those_of_the_last_cast(norm, dtype):
    cast = norm(24, eps=1e-5).half().to(dtype)  # float16 alone would round 1e-5 to 1.0014e-5
    assert cast.average.dtype == cast.epsilon.dtype == dtype
    assert torch.equal(cast.average, torch.full_like(cast.average, 1 / 24))
    assert torch.equal(cast.epsilon, torch.tensor([1e-5], dtype=dtype))


@pytest.mark.parametrize("norm", [LayerNorm2d, TokenNorm])
def test_constants_are_there_after_a_start_without_memory(norm):
    with torch.device("meta"):
        empty = norm(24, eps=0.5)
    filled = empty.to_empty(device="cpu")
    assert (filled.average == 1 / 24).all()
    assert filled.epsilon.item() == 0.5


@pytest.mark.parametrize("eps", [1e-6, 1e-2, 1.0])
def test_epsilon_counts_on_both_paths(eps):
    over_map, over_tokens = LayerNorm2d(24, eps), TokenNorm(24, eps)
    image, tokens = 0.1 * torch.randn(2, 24, 3, 5), 0.1 * torch.randn(2, 6, 24)
    expected_map = _reference(over_map, image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected_tokens = _reference(over_tokens, tokens)
    for enabled in (False, True):  # autocast leaves the products out
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            torch.testing.assert_close(over_map(image), expected_map, rtol=0, atol=1e-5)
            torch.testing.assert_close(over_tokens(tokens), expected_tokens, rtol=0, atol=1e-5)


def test_drop_path_zeroes_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 3))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped[:, 0], dropped[:, 2])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(torch.ones(4, 3)), torch.ones(4, 3))
