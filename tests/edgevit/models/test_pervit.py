"""PerViT against the official code's goldens, and its position attention."""

from __future__ import annotations

import pytest
import torch

from edgevit.models import create_model, get_spec
from edgevit.models.pervit import Attention, _distances
from tests.edgevit.models.goldens import (
    apply_golden_weights,
    assert_intermediates,
    assert_logits_fp32,
    assert_logits_fp64,
    assert_state_dict_layout,
    load_golden,
)
from tests.families import build

GOLDEN = load_golden("pervit_tiny")


@pytest.fixture(scope="module")
def golden_model() -> torch.nn.Module:
    return apply_golden_weights(create_model("pervit_tiny"))


def test_state_dict_has_official_keys_order_and_shapes(golden_model):
    assert_state_dict_layout(golden_model, GOLDEN)


def test_float32_logits_match_the_official_code(golden_model):
    assert_logits_fp32(golden_model, GOLDEN)


def test_float64_logits_match_the_official_code(golden_model):
    assert_logits_fp64(golden_model, GOLDEN)
    golden_model.float()


def test_block_outputs_match_the_official_code(golden_model):
    # Not the projected distances, whose margin queries are not computed here, and not Phi, which is a logarithm here.
    same = [path for path in GOLDEN["intermediates"] if path not in ("rpe_proj", "blocks.0.attn.activation")]
    assert_intermediates(golden_model, GOLDEN, {path: path for path in same})


def test_position_attention_matches_the_official_code(golden_model):
    with torch.no_grad():
        distances = golden_model.rpe_proj(golden_model.distances).permute(0, 3, 1, 2)
        phi = golden_model.blocks[0].attn.activation(distances).exp()
    (stored,) = GOLDEN["intermediates"]["blocks.0.attn.activation"]
    assert [1, *phi.shape] == stored["shape"]
    assert phi.double().mean().item() == pytest.approx(stored["mean"], abs=1e-5)
    assert phi.double().std().item() == pytest.approx(stored["std"], abs=1e-5)


def test_attention_is_the_papers_normalised_product():
    torch.manual_seed(0)
    attention = Attention(8, 2, layer=3, layers=12).eval()
    tokens, distances = torch.randn(2, 9, 8), torch.randn(9, 8, 7, 7)
    query, key, value = (part.unflatten(2, (2, 4)) for part in attention.to_qkv(tokens).chunk(3, -1))
    content = torch.einsum("bthd,bshd->bhts", query, key).mul(4**-0.5).exp()
    weights = attention.activation(distances).exp() * content
    weights = weights / weights.sum(-1, keepdim=True)
    expected = attention.proj(torch.einsum("bhts,bshd->bthd", weights, value).flatten(2))
    torch.testing.assert_close(attention(tokens, distances), expected, rtol=1e-5, atol=1e-6)


def test_distances_are_those_between_points_of_one_grid():
    distances = _distances(14).reshape(14, 14, 18, 18)
    step = 2 / 13
    assert distances[0, 0, 2, 2] == 0
    assert distances[0, 0, 0, 2].item() == pytest.approx(2 * step, rel=1e-5)
    assert distances[13, 0, 17, 17].item() == pytest.approx(step * (2**2 + 15**2) ** 0.5, rel=1e-5)
    torch.testing.assert_close(distances, distances.flip(0, 1, 2, 3))


def test_training_begins_with_peripheral_regions():
    model = build("pervit")
    gates = [block.attn.activation.gn2 for block in model.blocks]
    assert (gates[0].bias[0].item(), gates[-1].bias[0].item()) == pytest.approx((-5.0, 4.0))
    assert (gates[0].weight[0].item(), gates[-1].weight[0].item()) == pytest.approx((3.0, 0.01))
    assert (gates[1].bias[0].item(), gates[1].weight[0].item()) == pytest.approx((-5 + 9 / 3, 3 - 2.99 / 3))
    assert (model.rpe_proj.weight == -0.02).all()
    assert all((conv == 0.02).all() for conv in (model.blocks[3].attn.activation.conv2.weight,))
    distances = model.rpe_proj(model.distances).permute(0, 3, 1, 2)
    phi = model.blocks[0].attn.activation(distances).exp()  # (heads, queries, keys)
    assert (phi[:, 0, 0] > 10 * phi[:, 0, -1]).all()  # early blocks look at what is near
    assert model.blocks[-1].attn.activation(distances).exp().min() > 0.9  # late ones everywhere


@pytest.mark.parametrize("size", [32, 96])
def test_other_sizes_have_a_grid_of_their_own(size):
    with torch.device("meta"):
        model = get_spec("pervit_tiny").build(7, size).eval()
        assert model(torch.empty(2, 3, size, size)).shape == (2, 7)
