"""Counts against the spec of every model, and those against what papers and official code say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.models import get_spec, iter_specs
from edgevit.models.counting import count_macs, count_macs_by_module, count_params
from edgevit.spec import Tier


def test_macs_of_a_convolution_and_a_product():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_macs(net, (1, 3, 4, 4)) == 8 * 3 * 9 * 16 + 8 * 16 * 5
    assert count_params(net) == 8 * 27 + 8 + 5 * 128 + 5


class _WithConstant(nn.Module):
    """A product of weights alone beside one with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.second = nn.Parameter(torch.ones(5, 6)), nn.Linear(6, 7), nn.Linear(7, 8)

    def forward(self, x):
        return self.second(x) + self.second(self.first(self.table)).sum()


def test_what_does_not_depend_on_the_input_does_not_count():
    counts = count_macs_by_module(_WithConstant(), (1, 3, 7))
    assert counts == {"": 3 * 7 * 8, "second": 3 * 7 * 8}


def test_unfolded_patches_count_once_for_each_number():
    assert count_macs(nn.Unfold(3, padding=1), (1, 2, 4, 4)) == 2 * 9 * 16


@pytest.mark.parametrize("spec", list(iter_specs()), ids=lambda spec: spec.name)
def test_counts_of_the_spec_are_those_of_the_network(spec):
    with torch.device("meta"):
        model = spec.build(spec.num_classes, spec.input_size)
    assert count_params(model) == spec.params
    assert count_macs(model, spec.inputs[0].shape) == spec.macs
    assert (spec.tier is Tier.EDGE) == (spec.params <= 35_000_000)


def test_meta_device_counts_what_the_cpu_counts():
    spec = get_spec("van_b0").for_task(10, 32)
    with torch.device("meta"):
        on_meta = spec.build(10, 32)
    assert count_macs_by_module(on_meta, (1, 3, 32, 32)) == count_macs_by_module(spec.build(10, 32), (1, 3, 32, 32))


# G multiply-accumulates: Mobile-Former's and CvT's README, the DWNets' official counter, the papers of the others.
_PUBLISHED = {
    "van_b0": 0.88,
    "van_b1": 2.5,
    "van_b2": 5.0,
    "van_b3": 9.0,
    "van_b4": 12.2,
    "van_b5": 17.2,
    "van_b6": 38.4,
    "mobile_former_26m": 0.026,
    "mobile_former_52m": 0.052,
    "mobile_former_96m": 0.096,
    "mobile_former_151m": 0.151,
    "mobile_former_214m": 0.214,
    "mobile_former_294m": 0.294,
    "mobile_former_508m": 0.508,
    "cvt_13": 4.5,
    "cvt_13_384": 16.3,
    "cvt_21": 7.1,
    "cvt_21_384": 24.9,
    "cvt_w24_384": 193.2,
    "dwnet_tiny": 3.74,
    "dwnet_base": 12.85,
    "dynamic_dwnet_tiny": 3.77,
    "dynamic_dwnet_base": 12.94,
    "i_dynamic_dwnet_tiny": 4.39,
    "i_dynamic_dwnet_base": 14.37,
    "local_vit_tiny": 4.5,
}


@pytest.mark.parametrize(("name", "published"), _PUBLISHED.items())
def test_macs_are_within_3_percent_of_the_published_ones(name, published):
    assert get_spec(name).macs == pytest.approx(published * 1e9, rel=0.03)


@pytest.mark.parametrize(
    ("name", "published"),
    [("vt_resnet18", 1.569), ("vt_resnet34", 3.236), ("vt_resnet50", 3.412), ("vt_resnet101", 7.129)],
)
def test_macs_of_vt_resnet_are_within_5_percent_of_the_published_ones(name, published):
    assert get_spec(name).macs == pytest.approx(published * 1e9, rel=0.05)


@pytest.mark.parametrize(("name", "published"), [("pervit_tiny", 1.6), ("pervit_small", 4.4), ("pervit_medium", 9.0)])
def test_macs_of_pervit_are_published_without_the_products_of_attention(name, published):
    spec = get_spec(name)
    with torch.device("meta"):
        widths = [block.attn.proj.in_features for block in spec.build(1000, 224).blocks]
    products = sum(2 * 196 * 196 * width for width in widths)
    assert spec.macs - products == pytest.approx(published * 1e9, rel=0.03)
