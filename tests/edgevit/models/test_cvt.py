"""CvT against the official code's goldens, and its parts."""

from __future__ import annotations

import pytest
import torch

from edgevit.models import create_model
from edgevit.models.cvt import Attention
from tests.edgevit.models.goldens import (
    apply_golden_weights,
    assert_intermediates,
    assert_logits_fp32,
    assert_logits_fp64,
    assert_state_dict_layout,
    load_golden,
)
from tests.families import build

GOLDEN = load_golden("cvt_13")


@pytest.fixture(scope="module")
def golden_model() -> torch.nn.Module:
    return apply_golden_weights(create_model("cvt_13"))


def test_state_dict_has_official_keys_order_and_shapes(golden_model):
    assert_state_dict_layout(golden_model, GOLDEN)


def test_float32_logits_match_the_official_code(golden_model):
    assert_logits_fp32(golden_model, GOLDEN)


def test_float64_logits_match_the_official_code(golden_model):
    assert_logits_fp64(golden_model, GOLDEN)
    golden_model.float()


def test_stage_outputs_match_the_official_code(golden_model):
    assert_intermediates(golden_model, GOLDEN, {path: path for path in GOLDEN["intermediates"]})


def test_drop_path_grows_inside_the_last_stage_alone():
    with torch.device("meta"):
        model = create_model("cvt_21")
    rates = [[block.drop_path.rate for block in stage.blocks] for stage in (model.stage0, model.stage1, model.stage2)]
    assert rates[:2] == [[0.0], [0.0] * 4]
    assert rates[2] == pytest.approx([0.1 * block / 15 for block in range(16)])


def test_one_image_gives_one_row_of_logits():
    with torch.no_grad():
        assert build("cvt").eval()(torch.randn(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("class_token", [False, True])
def test_attention_is_that_of_every_head_on_its_own(class_token):
    torch.manual_seed(0)
    attention = Attention(8, 2, class_token=class_token).eval()
    tokens = torch.randn(2, 16 + class_token, 8)
    grid = tokens[:, int(class_token) :].transpose(1, 2).reshape(2, 8, 4, 4)
    projected = []
    for conv, linear in (("q", "proj_q"), ("k", "proj_k"), ("v", "proj_v")):
        pixels = getattr(attention, f"conv_proj_{conv}")(grid).flatten(2).transpose(1, 2)
        projected.append(getattr(attention, linear)(torch.cat((tokens[:, : int(class_token)], pixels), 1)))
    query, key, value = (part.unflatten(2, (2, 4)) for part in projected)
    weights = torch.einsum("bthd,bshd->bhts", query, key).mul(8**-0.5).softmax(-1)
    expected = attention.proj(torch.einsum("bhts,bshd->bthd", weights, value).flatten(2))
    torch.testing.assert_close(attention(tokens, 4, 4), expected, rtol=1e-5, atol=1e-6)
