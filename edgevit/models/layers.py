"""Layers that several families share, written so that every runtime keeps them whole.

Feature maps stay (N, C, H, W) and tokens (N, T, d): the norms here change no rank and transpose nothing, so a
converter has no layout to guess and a delegate need not stop at them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.compat.torch import notified_of_casts


def to_pixels(x: Tensor) -> Tensor:
    """A feature map as a sequence of pixels: (N, C, H, W) -> (N, HW, C), as channels-last runtimes store it."""
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)


def to_map(pixels: Tensor, height: int, width: int) -> Tensor:
    """Undo `to_pixels`: (N, HW, C) -> (N, C, H, W)."""
    batch, _, channels = pixels.shape
    return pixels.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(N, T, C) -> (N * heads, T, C / heads): the heads of an attention in its batch."""
    batch, length, channels = tokens.shape
    parts = tokens.reshape(batch, length, heads, channels // heads).transpose(1, 2)
    return parts.reshape(batch * heads, length, channels // heads)


def merge_heads(parts: Tensor, heads: int) -> Tensor:
    """Undo `split_heads`: (N * heads, T, C / heads) -> (N, T, C)."""
    _, length, width = parts.shape
    return parts.reshape(-1, heads, length, width).transpose(1, 2).reshape(-1, length, heads * width)


class PixelLinear(nn.Linear):
    """A linear layer at each pixel of a feature map, as a 1x1 convolution: (N, C_in, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class DropPath(nn.Module):
    """Stochastic depth: in training, zero a residual branch per sample and scale the survivors by 1 / (1 - rate).

    Any shape (N, ...) -> the same shape; the identity in eval.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)  # (N, 1, ...)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """The rates of `blocks` blocks, from 0 in equal steps to `last`."""
    return [last * block / max(blocks - 1, 1) for block in range(blocks)]


@notified_of_casts
class _ChannelNorm(nn.Module):
    """Layer normalisation over one axis, with the state-dict keys of nn.LayerNorm: weight (C,) and bias (C,).

    A subclass chooses the axis by `_product`, `_plain_mean` and `_affine`. The mean is a product with 1/C: XNNPACK
    delegates neither layer_norm nor a mean over channels, and each of them would cut the graph in two. eps is the
    bias of the product that gives the variance.
    """

    average: Tensor
    epsilon: Tensor

    def __init__(self, channels: int, eps: float, average_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("average", torch.full(average_shape, 1.0 / channels), persistent=False)
        self.register_buffer("epsilon", torch.full((1,), eps), persistent=False)

    def after_cast(self) -> None:
        """A cast carries over what the old dtype rounded (and to_empty nothing at all): write it anew."""
        self.average.fill_(1.0 / self.weight.shape[0])
        self.epsilon.fill_(self.eps)

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def _plain_mean(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _affine(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # Autocast would round the operands of a product to half precision, and CUDA to TF32.
        if x.device.type in ("cpu", "meta") and not torch.is_autocast_enabled("cpu"):
            centred = x - self._product(x)
            variance = self._product(centred * centred, self.epsilon)
        else:
            centred = x - self._plain_mean(x)
            variance = self._plain_mean(centred * centred) + self.eps
        weight, bias = self._affine()
        return centred * torch.rsqrt(variance) * weight + bias

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class LayerNorm2d(_ChannelNorm):
    """Layer normalisation over the channels of a feature map, at each position: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps, (1, channels, 1, 1))

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, self.average, bias)  # (N, 1, H, W)

    def _plain_mean(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)  # (N, 1, H, W)

    def _affine(self) -> tuple[Tensor, Tensor]:
        return self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)


class TokenNorm(_ChannelNorm):
    """Layer normalisation of each token: (N, T, d) -> the same shape, as nn.LayerNorm(d)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps, (1, channels))

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self.average, bias)  # (N, T, 1)

    def _plain_mean(self, x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True)  # (N, T, 1)

    def _affine(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias
