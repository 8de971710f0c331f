"""Counts against the spec of every model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.models import create_model, iter_specs
from edgevit.models.counting import count_macs, count_params


def test_macs_of_a_convolution_and_a_product():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_macs(net, (1, 3, 4, 4)) == 8 * 3 * 9 * 16 + 8 * 16 * 5
    assert count_params(net) == 8 * 27 + 8 + 5 * 128 + 5


@pytest.mark.parametrize("spec", iter_specs(), ids=lambda spec: spec.name)
def test_published_counts_are_those_of_the_network(spec):
    with torch.device("cpu"):
        model = create_model(spec.name)
    assert count_params(model) == spec.params
    assert count_macs(model, spec.inputs[0].shape) == spec.macs
