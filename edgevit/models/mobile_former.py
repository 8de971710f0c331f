"""Mobile-Former (Chen et al., arXiv 2108.05895): a MobileNet and a few global tokens that talk through attention.

Differs from the paper's code in form only. Tokens are (N, T, d), not (T, N, d). Attention reads a feature map as
pixels (N, HW, C), as channels-last runtimes keep it, so nothing is transposed there. Heads are not split by reshapes:
there is one row per head and token, zero outside its head (`HeadRows`), so that all heads share two plain
matrix products; the zeros cost nothing where the token rows do not fill a tile of the kernel, but `macs` counts them
(3 to 7 % of all). State-dict keys and results are the official ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.layers import TokenNorm, to_pixels
from edgevit.spec import Interpolation, ModelSpec, Preprocess, Task, Tier, class_logits, image_input

_BRIDGE_HEADS = 2  # attention between feature map and tokens
_TOKEN_HEADS = 4  # attention among tokens
_DOWN_EXPAND = 4  # second expansion of a downsampling block


def _hard_tanh(x: Tensor) -> Tensor:
    """The paper's 2 * hard_sigmoid(x) - 1, in fewer operations: any shape -> the same, in -1..1."""
    return F.hardtanh(x / 3.0)


class HeadRows(nn.Module):
    """One row per head and token: (N, T, C) -> (N, heads * T, C).

    Row h * T + t is scale * token t, zero outside head h.
    """

    mask: Tensor

    def __init__(self, channels: int, heads: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        mask = torch.eye(heads).repeat_interleave(channels // heads, 1)
        self.register_buffer("mask", mask.unsqueeze(1), persistent=False)  # (heads, 1, C)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, channels = x.shape
        x = x if self.scale == 1.0 else x * self.scale
        rows = x.reshape(batch, 1, -1, channels) * self.mask  # (N, heads, T, C)
        return rows.reshape(batch, -1, channels)


def _merge_head_rows(x: Tensor, heads: int) -> Tensor:
    """Take each head's channels from its own rows: (N, heads * T, C) -> (N, T, C)."""
    tokens, width = x.shape[1] // heads, x.shape[2] // heads
    parts = [x[:, h * tokens : (h + 1) * tokens, h * width : (h + 1) * width] for h in range(heads)]
    return torch.cat(parts, 2)


class ChannelShuffle(nn.Module):
    """Reorder channels from group-major to interleaved: (N, C, H, W) -> same; channel g * C/G + i goes to i * G + g."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch, self.groups, channels // self.groups, height * width)  # rank 4, which delegates keep
        return x.transpose(1, 2).reshape(batch, channels, height, width)


def _shuffle(groups: int, when: int) -> nn.Module:
    """A shuffle by `groups` in a network of `when` groups; nothing where convolutions are not grouped."""
    return ChannelShuffle(groups) if when > 1 else nn.Identity()


def _depthwise(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)


def _pointwise(in_channels: int, channels: int, groups: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 1, groups=groups, bias=False)


class DynamicReLU(nn.Module):
    """max(a1 * x, a2 * x) per channel, slopes from token 0: x (N, C, H, W), tokens (N, T, d) -> as x. Section 3.2."""

    def __init__(self, channels: int, token_dim: int) -> None:
        super().__init__()
        self.channels = channels
        self.hyper = nn.Sequential(
            nn.Linear(token_dim, token_dim // 4), nn.ReLU(), nn.Linear(token_dim // 4, 2 * channels)
        )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        # A slice keeps the rank and stays in the delegate; the index 0 would not.
        slopes = _hard_tanh(self.hyper(tokens[:, :1]))  # (N, 1, 2C)
        slopes = slopes.reshape(-1, 2 * self.channels, 1, 1)
        first, second = slopes[:, : self.channels], slopes[:, self.channels :]
        return torch.maximum((first + 1.0) * x, second * x)


class MapToTokens(nn.Module):
    """Mobile -> Former: tokens gather from the feature map: (N, C, H, W), (N, T, d) -> tokens (N, T, d). Section 3.2.

    The feature map is key and value without a projection.
    """

    def __init__(self, channels: int, token_dim: int) -> None:
        super().__init__()
        self.alpha = nn.Sequential(nn.Linear(token_dim, channels))
        self.q = nn.Linear(token_dim, channels)
        self.proj = nn.Linear(channels, token_dim)
        self.layer_norm = TokenNorm(token_dim)
        self.query_heads = HeadRows(channels, _BRIDGE_HEADS, scale=(channels // _BRIDGE_HEADS) ** -0.5)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        pixels = to_pixels(x)  # (N, HW, C)
        query = self.query_heads(self.q(tokens))  # (N, 2T, C)
        # Softmax over pixels: runtimes want its axis last.
        attention = torch.bmm(pixels, query.transpose(1, 2)).transpose(1, 2).softmax(-1)  # (N, 2T, HW)
        gathered = _merge_head_rows(torch.bmm(attention, pixels), _BRIDGE_HEADS)  # (N, T, C)
        gate = _hard_tanh(self.alpha(tokens)) + 1.0  # (N, T, C) in 0..2
        return self.layer_norm(tokens + self.proj(gathered * gate))


class Former(nn.Module):
    """Self-attention and an MLP over the tokens, norms after the residuals: (N, T, d) -> same. Section 3.2.

    The tokens are key and value without a projection.
    """

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.Linear(token_dim, 2 * token_dim), nn.GELU(), nn.Linear(2 * token_dim, token_dim))
        self.ffn_norm = TokenNorm(token_dim)
        self.q = nn.Linear(token_dim, token_dim)
        self.channel_mlp = nn.Linear(token_dim, token_dim)
        self.layer_norm = TokenNorm(token_dim)
        self.query_heads = HeadRows(token_dim, _TOKEN_HEADS, scale=(token_dim // _TOKEN_HEADS) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query_heads(self.q(tokens))  # (N, 4T, d)
        attention = torch.bmm(query, tokens.transpose(1, 2)).softmax(-1)  # (N, 4T, T)
        mixed = _merge_head_rows(torch.bmm(attention, tokens), _TOKEN_HEADS)  # (N, T, d)
        tokens = self.layer_norm(tokens + self.channel_mlp(mixed))
        return self.ffn_norm(tokens + self.ffn(tokens))


class TokensToMap(nn.Module):
    """Former -> Mobile: every pixel gathers from the tokens: x (N, C, H, W), (N, T, d) -> as x. Section 3.2.

    The feature map is the query without a projection.
    """

    def __init__(self, channels: int, token_dim: int) -> None:
        super().__init__()
        self.k = nn.Linear(token_dim, channels)
        self.proj = nn.Linear(token_dim, channels)
        self.key_heads = HeadRows(channels, _BRIDGE_HEADS, scale=(channels // _BRIDGE_HEADS) ** -0.5)
        self.value_heads = HeadRows(channels, _BRIDGE_HEADS)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        key, value = self.key_heads(self.k(tokens)), self.value_heads(self.proj(tokens))  # (N, 2T, C)
        scores = torch.bmm(to_pixels(x), key.transpose(1, 2))  # (N, HW, 2T)
        attention = scores.reshape(batch, -1, tokens.shape[1]).softmax(-1)  # (N, HW * 2, T): each head on its own
        gathered = torch.bmm(attention.reshape(scores.shape), value)  # (N, HW, C)
        return x + gathered.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class LiteBlock(nn.Module):
    """Convolutions alone: (N, C_in, H, W) -> (N, C, H / stride, W / stride); the tokens pass unchanged."""

    def __init__(self, in_channels: int, channels: int, *, expand: int, stride: int, groups: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.residual = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            _depthwise(in_channels, hidden, stride),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            _shuffle(in_channels, when=groups),
            _pointwise(hidden, channels, groups),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv(x)
        return (x + out if self.residual else out), tokens


class BottleneckBlock(nn.Module):
    """Inverted bottleneck at full resolution, between Mobile -> Former and Former -> Mobile. Section 3.2.

    Map (N, C_in, H, W) -> (N, C, H, W), tokens (N, T, d) -> tokens.
    """

    def __init__(self, in_channels: int, channels: int, *, expand: int, groups: int, token_dim: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.residual = in_channels == channels
        self.conv1 = nn.Sequential(
            _pointwise(in_channels, hidden, groups), nn.BatchNorm2d(hidden), _shuffle(groups, when=groups)
        )
        self.hyper1 = DynamicReLU(hidden, token_dim)
        self.conv2 = nn.Sequential(_depthwise(hidden, hidden, 1), nn.BatchNorm2d(hidden))
        self.hyper2 = DynamicReLU(hidden, token_dim)
        self.conv3 = nn.Sequential(
            _pointwise(hidden, channels, groups), nn.BatchNorm2d(channels), _shuffle(groups, when=groups)
        )
        self.local_global = MapToTokens(in_channels, token_dim)
        self.global_block = Former(token_dim)
        self.global_local = TokensToMap(channels, token_dim)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.global_block(self.local_global(x, tokens))
        out = self.hyper1(self.conv1(x), tokens)  # (N, C_in * expand, H, W)
        out = self.hyper2(self.conv2(out), tokens)
        out = self.conv3(out)
        return self.global_local(x + out if self.residual else out, tokens), tokens


class DownsampleBlock(nn.Module):
    """Two depthwise-pointwise pairs, the first with stride 2, between the two bridges. Section 3.3.

    Map (N, C_in, H, W) -> (N, C, H/2, W/2), tokens (N, T, d) -> tokens.
    """

    def __init__(self, in_channels: int, channels: int, *, expand: int, groups: int, token_dim: int) -> None:
        super().__init__()
        hidden, hidden2 = in_channels * expand, channels * _DOWN_EXPAND
        self.conv1 = nn.Sequential(
            _depthwise(in_channels, hidden, 2), nn.BatchNorm2d(hidden), _shuffle(in_channels, when=groups)
        )
        self.hyper1 = DynamicReLU(hidden, token_dim)
        self.conv2 = nn.Sequential(_pointwise(hidden, channels, groups), nn.BatchNorm2d(channels))
        self.conv3 = nn.Sequential(
            _depthwise(channels, hidden2, 1), nn.BatchNorm2d(hidden2), _shuffle(channels, when=groups)
        )
        self.hyper3 = DynamicReLU(hidden2, token_dim)
        self.conv4 = nn.Sequential(_pointwise(hidden2, channels, groups), nn.BatchNorm2d(channels))
        self.local_global = MapToTokens(in_channels, token_dim)
        self.global_block = Former(token_dim)
        self.global_local = TokensToMap(channels, token_dim)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.global_block(self.local_global(x, tokens))
        out = self.hyper1(self.conv1(x), tokens)  # (N, C_in * expand, H/2, W/2)
        out = self.conv2(out)  # (N, C, H/2, W/2)
        refined = self.hyper3(self.conv3(out), tokens)  # (N, C * 4, H/2, W/2)
        return self.global_local(out + self.conv4(refined), tokens), tokens


class Classifier(nn.Module):
    """Pooled feature map beside token 0, then two linear layers: (N, C, H, W), (N, T, d) -> logits (N, num_classes)."""

    def __init__(
        self, channels: int, num_classes: int, *, width: int, groups: int, token_dim: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = 6 * channels
        self.conv = nn.Sequential(
            _shuffle(groups, when=groups), _pointwise(channels, hidden, groups), nn.BatchNorm2d(hidden)
        )
        self.fc = nn.Sequential(nn.Linear(hidden + token_dim, width), nn.BatchNorm1d(width), nn.Hardswish())
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        pooled = F.relu6(self.conv(x)).mean((2, 3), keepdim=True)  # (N, 6C, 1, 1)
        pooled = F.hardswish(pooled).flatten(1)
        return self.classifier(self.fc(torch.cat([pooled, tokens[:, :1].flatten(1)], dim=1)))


@dataclass(frozen=True, slots=True)
class Row:
    """One block of a variant: its kind, first expansion, output channels, and the stride of a lite block."""

    kind: Literal["lite", "down", "block"]
    expand: int
    channels: int
    stride: int = 1

    def make(self, in_channels: int, *, groups: int, token_dim: int) -> nn.Module:
        if self.kind == "lite":
            return LiteBlock(in_channels, self.channels, expand=self.expand, stride=self.stride, groups=groups)
        block = DownsampleBlock if self.kind == "down" else BottleneckBlock
        return block(in_channels, self.channels, expand=self.expand, groups=groups, token_dim=token_dim)


@dataclass(frozen=True, slots=True)
class Config:
    """Widths, tokens and blocks of a variant."""

    stem: int
    tokens: int
    token_dim: int
    head_width: int
    dropout: float
    rows: tuple[Row, ...]
    groups: int = 1  # of the pointwise convolutions


class MobileFormer(nn.Module):
    """Stem, blocks that carry a feature map and tokens, classifier: (N, 3, S, S) -> logits (N, num_classes).

    S is a multiple of 32. Section 3.3.
    """

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.tokens, config.token_dim)
        self.stem = nn.Sequential(
            nn.Conv2d(3, config.stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(config.stem), nn.ReLU6()
        )
        self.features = nn.ModuleList()
        channels = config.stem
        for row in config.rows:
            self.features.append(row.make(channels, groups=config.groups, token_dim=config.token_dim))
            channels = row.channels
        self.local_global = MapToTokens(channels, config.token_dim)
        self.classifier = Classifier(
            channels,
            num_classes,
            width=config.head_width,
            groups=config.groups,
            token_dim=config.token_dim,
            dropout=config.dropout,
        )
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens.weight.unsqueeze(0).expand(x.shape[0], -1, -1)  # (N, T, d): the same for every image
        x = self.stem(x)  # (N, C, S/2, S/2)
        for block in self.features:
            x, tokens = block(x, tokens)
        return self.classifier(x, self.local_global(x, tokens))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / (math.prod(module.kernel_size) * module.out_channels)))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def _build(num_classes: int, input_size: int, *, config: Config) -> MobileFormer:
    return MobileFormer(num_classes, config)  # every input size gives the same network


def _spec(name: str, config: Config, *, params: int, macs: int, top1: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.CLASSIFY,
        tier=Tier.EDGE,
        build=partial(_build, config=config),
        inputs=image_input(224),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(224, crop_ratio=0.875, interpolation=Interpolation.BICUBIC),
        params=params,
        macs=macs,
        paper="arXiv 2108.05895",
        size_multiple=32,
        top1=top1,
        weights="without a licence",
    )


# 26m is 52m with grouped pointwise convolutions and less dropout.
_ROWS_52M = (
    Row("lite", 3, 12, stride=2),
    Row("block", 3, 12),
    Row("down", 6, 24),
    Row("block", 3, 24),
    Row("down", 6, 48),
    Row("block", 4, 48),
    Row("block", 6, 64),
    Row("down", 6, 96),
    Row("block", 6, 96),
)
_ROWS_96M = (
    Row("lite", 2, 12, stride=1),
    Row("down", 6, 16),
    Row("down", 6, 32),
    Row("block", 3, 32),
    Row("down", 6, 64),
    Row("block", 4, 64),
    Row("block", 6, 88),
    Row("down", 6, 128),
    Row("block", 6, 128),
)
_ROWS_151M = (
    Row("lite", 2, 12, stride=1),
    Row("down", 6, 16),
    Row("block", 3, 16),
    Row("down", 6, 32),
    Row("block", 3, 32),
    Row("down", 6, 64),
    Row("block", 4, 64),
    Row("block", 6, 88),
    Row("block", 6, 88),
    Row("down", 6, 128),
    Row("block", 6, 128),
    Row("block", 6, 128),
)
_ROWS_214M = (
    Row("lite", 2, 12, stride=1),
    Row("down", 6, 20),
    Row("block", 3, 20),
    Row("down", 6, 40),
    Row("block", 4, 40),
    Row("down", 6, 80),
    Row("block", 4, 80),
    Row("block", 6, 112),
    Row("block", 6, 112),
    Row("down", 6, 160),
    Row("block", 6, 160),
    Row("block", 6, 160),
)
_ROWS_294M = (
    Row("lite", 2, 16, stride=1),
    Row("down", 6, 24),
    Row("block", 4, 24),
    Row("down", 6, 48),
    Row("block", 4, 48),
    Row("down", 6, 96),
    Row("block", 4, 96),
    Row("block", 6, 128),
    Row("block", 6, 128),
    Row("down", 6, 192),
    Row("block", 6, 192),
    Row("block", 6, 192),
)
_ROWS_508M = (
    Row("lite", 2, 24, stride=1),
    Row("down", 6, 40),
    Row("block", 3, 40),
    Row("down", 6, 72),
    Row("block", 3, 72),
    Row("down", 6, 128),
    Row("block", 4, 128),
    Row("block", 6, 176),
    Row("block", 6, 176),
    Row("down", 6, 240),
    Row("block", 6, 240),
    Row("block", 6, 240),
)

VARIANTS: tuple[ModelSpec, ...] = (
    _spec(
        "mobile_former_26m",
        Config(stem=8, tokens=3, token_dim=128, head_width=1024, dropout=0.1, rows=_ROWS_52M, groups=4),
        params=3_232_788,
        macs=25_233_664,
        top1=64.0,
    ),
    _spec(
        "mobile_former_52m",
        Config(stem=8, tokens=3, token_dim=128, head_width=1024, dropout=0.2, rows=_ROWS_52M),
        params=3_469_092,
        macs=50_973_952,
        top1=68.7,
    ),
    _spec(
        "mobile_former_96m",
        Config(stem=12, tokens=4, token_dim=128, head_width=1280, dropout=0.2, rows=_ROWS_96M),
        params=4_585_252,
        macs=95_816_592,
        top1=72.8,
    ),
    _spec(
        "mobile_former_151m",
        Config(stem=12, tokens=6, token_dim=192, head_width=1280, dropout=0.2, rows=_ROWS_151M),
        params=7_595_828,
        macs=154_056_656,
        top1=75.2,
    ),
    _spec(
        "mobile_former_214m",
        Config(stem=12, tokens=6, token_dim=192, head_width=1600, dropout=0.2, rows=_ROWS_214M),
        params=9_425_920,
        macs=217_574_112,
        top1=76.7,
    ),
    _spec(
        "mobile_former_294m",
        Config(stem=16, tokens=6, token_dim=192, head_width=1920, dropout=0.3, rows=_ROWS_294M),
        params=11_422_648,
        macs=297_842_048,
        top1=77.9,
    ),
    _spec(
        "mobile_former_508m",
        Config(stem=24, tokens=6, token_dim=192, head_width=1920, dropout=0.3, rows=_ROWS_508M),
        params=13_976_976,
        macs=514_996_960,
        top1=79.3,
    ),
)
