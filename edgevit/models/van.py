"""VAN: Visual Attention Network (Guo et al., arXiv 2202.09741), large kernel attention as convolutions.

Differs from the paper's code in form only: the norm that ends a stage works on the (N, C, H, W) feature map instead
of a token sequence, and the head pools before it flattens. State-dict keys and results are the official ones.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.layers import DropPath, LayerNorm2d, drop_path_rates
from edgevit.spec import Interpolation, ModelSpec, Preprocess, Task, class_logits, image_input, tier_of


class LargeKernelAttention(nn.Module):
    """Gate a feature map by its own 21x21 neighbourhood: (N, C, H, W) -> the same shape. Paper section 3.1.

    5x5 depthwise, 7x7 depthwise with dilation 3 and 1x1 convolutions stand for the 21x21 kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class Attention(nn.Module):
    """Large kernel attention between two 1x1 convolutions, with its own shortcut: (N, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = LargeKernelAttention(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x))))


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution; a module of its own because the official key is `dwconv.dwconv`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class Mlp(nn.Module):
    """Per-position MLP with a 3x3 depthwise convolution inside: (N, C, H, W) -> same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))  # (N, hidden, H, W) inside


class Block(nn.Module):
    """Attention and MLP, each as a scaled residual of a batch-normalised feature map: (N, C, H, W) -> same."""

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-2))
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels, channels * mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1.view(1, -1, 1, 1) * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2.view(1, -1, 1, 1) * self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Overlapping strided convolution and batch norm: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class VAN(nn.Module):
    """Four stages of patch embedding, blocks and layer norm, then a pooled linear head.

    (N, 3, S, S) -> logits (N, num_classes), S a multiple of 32. Paper section 3.2; drop_path is the rate of
    the last block, rates before it grow linearly from 0.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        dims: tuple[int, ...],
        mlp_ratios: tuple[int, ...],
        depths: tuple[int, ...],
        drop_path: float,
    ) -> None:
        super().__init__()
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        in_channels = 3
        # Official names are patch_embed1, block1, norm1, patch_embed2, ...: numbered attributes, not a list.
        for stage, (channels, ratio, depth) in enumerate(zip(dims, mlp_ratios, depths, strict=True), start=1):
            kernel, stride = (7, 4) if stage == 1 else (3, 2)
            blocks = nn.ModuleList(Block(channels, ratio, next(rates)) for _ in range(depth))
            setattr(self, f"patch_embed{stage}", PatchEmbed(in_channels, channels, kernel, stride))
            setattr(self, f"block{stage}", blocks)
            setattr(self, f"norm{stage}", LayerNorm2d(channels, eps=1e-6))
            in_channels = channels
        self.num_stages = len(dims)
        self.head = nn.Linear(in_channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, self.num_stages + 1):  # stride 4, 8, 16, 32
            x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x)
            x = getattr(self, f"norm{stage}")(x)
        x = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1): XNNPACK delegates a spatial mean only with its axes kept
        return self.head(x.flatten(1))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        assert module.bias is not None  # every convolution of VAN has one
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _build(
    num_classes: int,
    input_size: int,  # every size gives the same network
    *,
    dims: tuple[int, ...],
    mlp_ratios: tuple[int, ...],
    depths: tuple[int, ...],
    drop_path: float,
) -> VAN:
    return VAN(num_classes, dims=dims, mlp_ratios=mlp_ratios, depths=depths, drop_path=drop_path)


def _spec(
    name: str,
    dims: tuple[int, int, int, int],
    depths: tuple[int, int, int, int],
    *,
    drop_path: float,
    params: int,
    macs: int,
    top1: float,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.CLASSIFY,
        tier=tier_of(params),
        build=partial(_build, dims=dims, mlp_ratios=(8, 8, 4, 4), depths=depths, drop_path=drop_path),
        inputs=image_input(224),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(224, crop_ratio=0.9, interpolation=Interpolation.BICUBIC),
        params=params,
        macs=macs,
        paper="arXiv 2202.09741",
        size_multiple=32,
        top1=top1,
        weights="Apache-2.0; commercial use: ask the authors",
    )


_TINY = (32, 64, 160, 256)
_BASE = (64, 128, 320, 512)
_WIDE = (96, 192, 480, 768)

# top1 of B0 to B4 from training on ImageNet-1K, of B5 and B6 after ImageNet-22K. No drop-path rate is published for B4
# and B5: 0.3 lies between those of B3 and B6.
VARIANTS: tuple[ModelSpec, ...] = (
    _spec("van_b0", _TINY, (3, 3, 5, 2), drop_path=0.1, params=4_105_800, macs=864_612_864, top1=75.4),
    _spec("van_b1", _BASE, (2, 2, 4, 2), drop_path=0.1, params=13_861_800, macs=2_496_040_448, top1=81.1),
    _spec("van_b2", _BASE, (3, 3, 12, 3), drop_path=0.1, params=26_578_472, macs=4_993_550_848, top1=82.8),
    _spec("van_b3", _BASE, (3, 5, 27, 3), drop_path=0.2, params=44_765_608, macs=8_926_069_760, top1=83.9),
    _spec("van_b4", _BASE, (3, 6, 40, 3), drop_path=0.3, params=60_283_176, macs=12_144_534_016, top1=84.2),
    _spec("van_b5", _WIDE, (3, 3, 24, 3), drop_path=0.3, params=89_967_688, macs=17_130_289_920, top1=86.3),
    _spec(
        "van_b6", (96, 192, 384, 768), (6, 6, 90, 6), drop_path=0.5, params=199_829_416, macs=38_711_225_856, top1=86.9
    ),
)
