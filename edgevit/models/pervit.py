"""PerViT: Peripheral Vision Transformer (Min et al., arXiv 2206.06801), attention with learned peripheral regions.

Differs from the paper's code in form only:

- Position attention is the logarithm of the paper's, added to the scores in front of a softmax: where the paper divides
  Phi * exp(s) by its sum, this is softmax(s + log Phi), which is the same without underflow. It depends on no image, so
  that exporting makes it a constant of each block.
- Only the queries inside the image are looked at, instead of all positions of the padded grid.
- Other input sizes than 224 get a grid of their own, from -1 to 1 like the published one.

State-dict keys and results are the official ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.layers import (
    DropPath,
    TokenNorm,
    drop_path_rates,
    merge_heads,
    split_heads,
    to_map,
    to_pixels,
)
from edgevit.spec import Interpolation, ModelSpec, Preprocess, Task, class_logits, image_input, tier_of

_EPS = 1e-6  # of the layer norms
_MLP_RATIO = 4
_STRIDE = 16
_MARGIN = 2  # positions around the grid that two 3x3 convolutions without padding take away


def _distances(side: int) -> Tensor:
    """Distance of every position of a side x side grid from every one of the grid with its margin.

    (side * side, side + 4, side + 4, 1): the queries, then the keys' rows and columns. The grid goes from -1 to 1.
    """
    step = 2.0 / (side - 1)
    inner = torch.linspace(-1.0, 1.0, side)
    before = torch.linspace(-1.0 - _MARGIN * step, -1.0 - step, _MARGIN)
    line = torch.cat((before, inner, -before.flip(0)))
    keys = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)  # (side + 4, side + 4, 2)
    queries = torch.stack(torch.meshgrid(inner, inner, indexing="ij"), -1).reshape(-1, 1, 1, 2)
    return (queries - keys).square().sum(-1, keepdim=True).sqrt()


class PeripheralPosition(nn.Module):
    """Peripheral projections and a gate: (Q, 4 h, side + 4, side + 4) -> log Phi (h, Q, Q), Q = side * side.

    Paper section 3.2. Instance norms work on each query's map of keys.
    """

    def __init__(self, heads: int, layer: int, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4 * heads, 4 * heads, 3)
        self.conv2 = nn.Conv2d(4 * heads, heads, 3)
        self.gn1 = nn.GroupNorm(4 * heads, 4 * heads)
        self.gn2 = nn.GroupNorm(heads, heads)
        for conv in (self.conv1, self.conv2):
            nn.init.constant_(conv.weight, 0.02)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        # Early blocks begin by looking at their surroundings, late ones everywhere. Paper section 3.3.
        depth = layer / (layers - 1)
        nn.init.constant_(self.gn2.weight, 3.0 + depth * (0.01 - 3.0))
        nn.init.constant_(self.gn2.bias, -5.0 + depth * 9.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.gn1(self.conv1(x)))
        x = self.gn2(self.conv2(x)).flatten(2)  # (Q, h, Q)
        return F.logsigmoid(x.transpose(0, 1))


class Attention(nn.Module):
    """Multi-head peripheral attention: (N, T, C), embedded distances -> (N, T, C). Paper section 3.1."""

    def __init__(self, channels: int, heads: int, *, layer: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.activation = PeripheralPosition(heads, layer, layers)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, distances: Tensor) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.to_qkv(tokens).chunk(3, -1))
        scores = torch.bmm(query * self.scale, key.transpose(1, 2))  # (N * h, T, T)
        scores = scores.unflatten(0, (-1, self.heads)) + self.activation(distances)  # (N, h, T, T)
        weights = scores.softmax(-1).flatten(0, 1)
        return self.proj(merge_heads(torch.bmm(weights, value), self.heads))


class PositionEncoding(nn.Module):
    """3x3 depthwise convolution on the tokens as a feature map: (N, T, C) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        return to_pixels(self.proj(to_map(tokens, side, side)))


class Mlp(nn.Module):
    """Two linear layers at each token: (N, T, C) -> (N, T, C_out)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention on position-encoded tokens and MLP, as residuals: (N, T, C) -> (N, T, C_out).

    Where a stage ends and the width changes, the second shortcut is a linear layer.
    """

    def __init__(
        self, channels: int, out_channels: int, heads: int, *, layer: int, layers: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = TokenNorm(channels, eps=_EPS)
        self.res_path = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()
        self.attn = Attention(channels, heads, layer=layer, layers=layers)
        self.conv = PositionEncoding(channels)
        self.drop_path = DropPath(drop_path)
        self.norm2 = TokenNorm(channels, eps=_EPS)
        self.mlp = Mlp(channels, out_channels)

    def forward(self, tokens: Tensor, distances: Tensor, side: int) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(self.conv(tokens, side)), distances))
        return self.res_path(tokens) + self.drop_path(self.mlp(self.norm2(tokens)))


class ConvStem(nn.Module):
    """Four strided convolutions and a 1x1 one: (N, 3, S, S) -> (N, C, S / 16, S / 16)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
                for before, width in zip((3, *widths), widths, strict=False)
            )
        )
        self.conv1x1 = nn.Conv2d(widths[-1], widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(self.conv_layers(x))


@dataclass(frozen=True, slots=True)
class Config:
    """Heads, widths of the four stages and of the stem, blocks; drop_path is the rate of the last block."""

    heads: int
    dims: tuple[int, int, int, int]
    stem: tuple[int, int, int, int]
    drop_path: float
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)


class PerViT(nn.Module):
    """Convolutional stem, blocks at stride 16, mean over the tokens: (N, 3, S, S) -> logits (N, num_classes).

    S is the input size that it was built for.
    """

    distances: Tensor

    def __init__(self, num_classes: int, config: Config, *, input_size: int) -> None:
        super().__init__()
        self.side = input_size // _STRIDE
        self.register_buffer("distances", _distances(self.side), persistent=False)
        self.conv_layers = ConvStem(config.stem)
        self.rpe_proj = nn.Linear(1, 4 * config.heads)
        widths = [width for width, depth in zip(config.dims, config.depths, strict=True) for _ in range(depth)]
        rates = drop_path_rates(config.drop_path, len(widths))
        self.blocks = nn.ModuleList(
            Block(width, after, config.heads, layer=layer, layers=len(widths), drop_path=rate)
            for layer, (width, after, rate) in enumerate(zip(widths, (*widths[1:], widths[-1]), rates, strict=True))
        )
        self.norm = TokenNorm(widths[-1], eps=_EPS)
        self.head = nn.Linear(widths[-1], num_classes)
        self.apply(_init_weights)
        nn.init.constant_(self.rpe_proj.weight, -0.02)

    def forward(self, x: Tensor) -> Tensor:
        distances = self.rpe_proj(self.distances).permute(0, 3, 1, 2)  # (Q, 4 h, side + 4, side + 4)
        tokens = to_pixels(self.conv_layers(x))  # (N, Q, C)
        for block in self.blocks:
            tokens = block(tokens, distances, self.side)
        tokens = to_map(self.norm(tokens), self.side, self.side)
        # XNNPACK delegates a spatial mean only with its axes kept.
        return self.head(tokens.mean((2, 3), keepdim=True).flatten(1))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build(num_classes: int, input_size: int, *, config: Config) -> PerViT:
    return PerViT(num_classes, config, input_size=input_size)


def _spec(name: str, config: Config, *, params: int, macs: int, top1: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.CLASSIFY,
        tier=tier_of(params),
        build=partial(_build, config=config),
        inputs=image_input(224),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(224, crop_ratio=0.875, interpolation=Interpolation.BICUBIC),
        params=params,
        macs=macs,
        paper="arXiv 2206.06801",
        size_multiple=2 * _STRIDE,
        top1=top1,
        weights="Apache-2.0",
    )


VARIANTS: tuple[ModelSpec, ...] = (
    _spec(
        "pervit_tiny",
        Config(heads=4, dims=(128, 192, 224, 280), stem=(48, 64, 96, 128), drop_path=0.0),
        params=7_591_000,
        macs=1_747_502_400,
        top1=78.8,
    ),
    _spec(
        "pervit_small",
        Config(heads=8, dims=(272, 320, 368, 464), stem=(64, 128, 192, 272), drop_path=0.1),
        params=21_317_672,
        macs=4_753_636_480,
        top1=82.1,
    ),
    _spec(
        "pervit_medium",
        Config(heads=12, dims=(312, 468, 540, 684), stem=(64, 192, 256, 312), drop_path=0.2),
        params=43_723_936,
        macs=9_445_986_720,
        top1=82.9,
    ),
)
