"""Every family learns: a few steps on a few images, and the loss falls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.families import FAMILIES, SEGMENTERS, build

_STEPS = 6


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_falls_and_every_parameter_has_a_gradient(family):
    torch.manual_seed(0)
    model = build(family).train()
    images = torch.randn(4, 3, 32, 32)
    targets = torch.arange(4)
    if family in SEGMENTERS:
        targets = targets.view(4, 1, 1).expand(4, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(_STEPS):
        loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())
