"""A network that no target can take."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class _Digamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.digamma(x)


class Untranslatable(nn.Module):
    """Two ops that no phone knows, each in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _Bessel(), _Digamma()
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))
