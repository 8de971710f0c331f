"""CvT: Convolutional vision Transformer (Wu et al., arXiv 2103.15808), attention whose projections are convolutions.

Differs from the paper's code in form only: feature maps are normalised as such, pixels become tokens in the order in
which channels-last runtimes store them, and one image gives logits (1, num_classes). State-dict keys and results are
the official ones.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from edgevit.models.layers import (
    DropPath,
    LayerNorm2d,
    TokenNorm,
    drop_path_rates,
    merge_heads,
    split_heads,
    to_map,
    to_pixels,
)
from edgevit.spec import Interpolation, ModelSpec, Preprocess, Task, class_logits, image_input, tier_of

_EPS = 1e-5  # of the layer norms
_MLP_RATIO = 4


class ConvEmbed(nn.Module):
    """Overlapping strided convolution and layer norm: (N, C_in, H, W) -> (N, C, H / s, W / s). Section 3.1."""

    def __init__(self, in_channels: int, channels: int, *, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=padding)
        self.norm = LayerNorm2d(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


def _conv_projection(channels: int, stride: int) -> nn.Sequential:
    """3x3 depthwise convolution and batch norm, in front of the linear projection."""
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels)))


class Attention(nn.Module):
    """Attention whose keys and values come from a feature map of half the resolution: (N, T, C) -> same. Section 3.2.

    The class token, if there is one, comes first and passes the convolutions by. Scores are scaled by C ** -0.5, the
    full width, as the paper's code does.
    """

    def __init__(self, channels: int, heads: int, *, class_token: bool) -> None:
        super().__init__()
        self.heads = heads
        self.extra = int(class_token)
        self.scale = channels**-0.5
        self.conv_proj_q = _conv_projection(channels, stride=1)
        self.conv_proj_k = _conv_projection(channels, stride=2)
        self.conv_proj_v = _conv_projection(channels, stride=2)
        self.proj_q = nn.Linear(channels, channels)
        self.proj_k = nn.Linear(channels, channels)
        self.proj_v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        x = to_map(tokens[:, self.extra :], height, width)
        query = self.proj_q(self._with_class_token(self.conv_proj_q(x), tokens))  # (N, T, C)
        key = self.proj_k(self._with_class_token(self.conv_proj_k(x), tokens))  # (N, T', C), T' about T / 4
        value = self.proj_v(self._with_class_token(self.conv_proj_v(x), tokens))
        query, key, value = (split_heads(part, self.heads) for part in (query * self.scale, key, value))
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)  # (N * heads, T, T')
        return self.proj(merge_heads(torch.bmm(weights, value), self.heads))

    def _with_class_token(self, x: Tensor, tokens: Tensor) -> Tensor:
        pixels = to_pixels(x)
        return torch.cat((tokens[:, :1], pixels), 1) if self.extra else pixels


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """Two linear layers at each token: (N, T, C) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.act = QuickGELU()
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and MLP as residuals of normalised tokens: (N, T, C) -> same."""

    def __init__(self, channels: int, heads: int, *, class_token: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = TokenNorm(channels, eps=_EPS)
        self.attn = Attention(channels, heads, class_token=class_token)
        self.drop_path = DropPath(drop_path)
        self.norm2 = TokenNorm(channels, eps=_EPS)
        self.mlp = Mlp(channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), height, width))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


@dataclass(frozen=True, slots=True)
class Config:
    """Widths, heads and blocks of the three stages; drop_path is the rate of the last block, of the last stage only."""

    dims: tuple[int, int, int]
    heads: tuple[int, int, int]
    depths: tuple[int, int, int]
    drop_path: float = 0.1


class Stage(nn.Module):
    """Embedding and blocks: x (N, C_in, H, W) -> (N, C, H', W') and class token (N, 1, C), None without one."""

    def __init__(self, embed: ConvEmbed, channels: int, heads: int, *, rates: list[float], class_token: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels)) if class_token else None
        self.patch_embed = embed
        self.blocks = nn.ModuleList(Block(channels, heads, class_token=class_token, drop_path=rate) for rate in rates)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.patch_embed(x)
        batch, _, height, width = x.shape
        tokens = to_pixels(x)
        if self.cls_token is not None:
            tokens = torch.cat((self.cls_token.expand(batch, -1, -1), tokens), 1)  # (N, 1 + HW, C)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        if self.cls_token is None:
            return to_map(tokens, height, width), None
        return to_map(tokens[:, 1:], height, width), tokens[:, :1]


class CvT(nn.Module):
    """Three stages at stride 4, 8 and 16; the last one's class token gives the logits.

    (N, 3, S, S) -> logits (N, num_classes), S a multiple of 16. Paper section 3.
    """

    stage0: Stage  # official names: numbered attributes, not a list
    stage1: Stage
    stage2: Stage

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        in_channels = 3
        for stage, (channels, heads, depth) in enumerate(zip(config.dims, config.heads, config.depths, strict=True)):
            last = stage == len(config.dims) - 1
            kernel, stride, padding = (7, 4, 2) if stage == 0 else (3, 2, 1)
            embed = ConvEmbed(in_channels, channels, kernel=kernel, stride=stride, padding=padding)
            rates = drop_path_rates(config.drop_path if last else 0.0, depth)
            setattr(self, f"stage{stage}", Stage(embed, channels, heads, rates=rates, class_token=last))
            in_channels = channels
        self.norm = TokenNorm(in_channels, eps=_EPS)
        self.head = nn.Linear(in_channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.stage0(x)
        x, _ = self.stage1(x)
        _, class_token = self.stage2(x)  # (N, 1, C)
        return self.head(self.norm(class_token).flatten(1))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Stage) and module.cls_token is not None:
        nn.init.trunc_normal_(module.cls_token, std=0.02)


def _build(num_classes: int, input_size: int, *, config: Config) -> CvT:
    return CvT(num_classes, config)  # every input size gives the same network


def _spec(name: str, config: Config, *, size: int, params: int, macs: int, top1: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.CLASSIFY,
        tier=tier_of(params),
        build=partial(_build, config=config),
        inputs=image_input(size),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(size, crop_ratio=0.875, interpolation=Interpolation.BICUBIC),
        params=params,
        macs=macs,
        paper="arXiv 2103.15808",
        size_multiple=16,
        top1=top1,
        weights="MIT",
    )


_CVT_13 = Config(dims=(64, 192, 384), heads=(1, 3, 6), depths=(1, 2, 10))
_CVT_21 = Config(dims=(64, 192, 384), heads=(1, 3, 6), depths=(1, 4, 16))
_CVT_W24 = Config(dims=(192, 768, 1024), heads=(3, 12, 16), depths=(2, 2, 20), drop_path=0.3)

VARIANTS: tuple[ModelSpec, ...] = (
    _spec("cvt_13", _CVT_13, size=224, params=19_997_480, macs=4_571_975_936, top1=81.6),
    _spec("cvt_13_384", _CVT_13, size=384, params=19_997_480, macs=16_286_628_096, top1=83.0),
    _spec("cvt_21", _CVT_21, size=224, params=31_622_696, macs=7_186_891_520, top1=82.5),
    _spec("cvt_21_384", _CVT_21, size=384, params=31_622_696, macs=24_875_216_640, top1=83.3),
    _spec("cvt_w24_384", _CVT_W24, size=384, params=277_196_392, macs=194_305_492_992, top1=87.6),
)
