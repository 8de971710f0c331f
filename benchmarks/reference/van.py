"""VAN as its official code runs it (Visual-Attention-Network/VAN-Classification, models/van.py).

Baseline here: the map becomes a token sequence (flatten, transpose) for the nn.LayerNorm that ends each stage, and
comes back by reshape, permute and a copy; the head takes the mean over tokens; the two shortcuts of an attention are
clones; batch norms and layer scales stand apart from the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LargeKernelAttention(nn.Module):
    """Gate a map by its 21x21 neighbourhood: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x.clone()
        return shortcut * self.conv1(self.conv_spatial(self.conv0(x)))


class Attention(nn.Module):
    """Large kernel attention between two 1x1 convolutions, with its own shortcut: (N, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = LargeKernelAttention(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x.clone()
        return self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x)))) + shortcut


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution under the official key `dwconv.dwconv`: (N, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class Mlp(nn.Module):
    """1x1, depthwise 3x3, GELU, 1x1: (N, C, H, W) -> same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    """Attention and MLP, each as a scaled residual of a batch-normalised map: (N, C, H, W) -> same."""

    def __init__(self, channels: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels, channels * mlp_ratio)
        self.layer_scale_1 = nn.Parameter(1e-2 * torch.ones(channels))
        self.layer_scale_2 = nn.Parameter(1e-2 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1.unsqueeze(-1).unsqueeze(-1) * self.attn(self.norm1(x))  # scale (C, 1, 1)
        return x + self.layer_scale_2.unsqueeze(-1).unsqueeze(-1) * self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Strided convolution and batch norm: (N, C_in, H, W) -> (N, C, H / stride, W / stride) and its two sides."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        _, _, height, width = x.shape
        return self.norm(x), height, width


class VAN(nn.Module):
    """Four stages and a linear head: (N, 3, S, S) -> logits (N, num_classes), S a multiple of 32."""

    def __init__(
        self, num_classes: int, *, dims: tuple[int, ...], mlp_ratios: tuple[int, ...], depths: tuple[int, ...]
    ) -> None:
        super().__init__()
        in_channels = 3
        for stage, (channels, ratio, depth) in enumerate(zip(dims, mlp_ratios, depths, strict=True), start=1):
            kernel, stride = (7, 4) if stage == 1 else (3, 2)
            setattr(self, f"patch_embed{stage}", PatchEmbed(in_channels, channels, kernel, stride))
            setattr(self, f"block{stage}", nn.ModuleList(Block(channels, ratio) for _ in range(depth)))
            setattr(self, f"norm{stage}", nn.LayerNorm(channels, eps=1e-6))
            in_channels = channels
        self.num_stages = len(dims)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        for stage in range(1, self.num_stages + 1):
            x, height, width = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x)
            x = x.flatten(2).transpose(1, 2)  # (N, H * W, C)
            x = getattr(self, f"norm{stage}")(x)
            if stage < self.num_stages:
                x = x.reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()
        return self.head(x.mean(dim=1))


def van_b0(num_classes: int) -> VAN:
    """The smallest variant: 4.1 M parameters."""
    return VAN(num_classes, dims=(32, 64, 160, 256), mlp_ratios=(8, 8, 4, 4), depths=(3, 3, 5, 2))
