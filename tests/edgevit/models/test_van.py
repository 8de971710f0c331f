"""VAN against the official code's goldens, and what its variants promise."""

from __future__ import annotations

import pytest
import torch

from edgevit.models import create_model
from tests.edgevit.models.goldens import (
    apply_golden_weights,
    assert_intermediates,
    assert_logits_fp32,
    assert_logits_fp64,
    assert_state_dict_layout,
    load_golden,
)

NAMES = ("van_b0", "van_b1")
INTERMEDIATES = {
    "patch_embed1": "patch_embed1",
    "block1.0": "block1.0",
    "stage1_after_norm": "norm1",
    "stage2_after_norm": "norm2",
    "stage3_after_norm": "norm3",
    "stage4_after_norm": "norm4",
}


@pytest.fixture(scope="module", params=NAMES)
def golden(request) -> dict:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def golden_model(golden) -> torch.nn.Module:
    return apply_golden_weights(create_model(golden["variant"]))


def test_state_dict_has_official_keys_order_and_shapes(golden, golden_model):
    assert_state_dict_layout(golden_model, golden)


def test_float32_logits_match_the_official_code(golden_model, golden):
    assert_logits_fp32(golden_model, golden)


def test_float64_logits_match_the_official_code(golden_model, golden):
    assert_logits_fp64(golden_model, golden)
    golden_model.float()


def test_stage_outputs_match_the_official_code(golden_model, golden):
    assert_intermediates(golden_model, golden, INTERMEDIATES)


def test_every_parameter_gets_a_gradient(golden_model):
    golden_model(torch.randn(1, 3, 64, 64)).square().sum().backward()
    without = [name for name, parameter in golden_model.named_parameters() if not parameter.grad.abs().max() > 1e-7]
    golden_model.zero_grad(set_to_none=True)
    assert without == []


@pytest.mark.parametrize("size", [32, 64, 160])
def test_other_class_counts_and_input_sizes_give_logits(size):
    model = create_model("van_b0", num_classes=7, input_size=size).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 7)


def test_batch_of_two_equals_two_batches_of_one(golden_model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, apart = golden_model(images), torch.cat([golden_model(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_training_form_drops_paths_and_eval_is_deterministic():
    model = create_model("van_b0", num_classes=5, input_size=64)
    rates = [block.drop_path.rate for stage in range(1, 5) for block in getattr(model, f"block{stage}")]
    assert rates == pytest.approx([0.1 * block / 12 for block in range(13)])
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(image), model(image))
