"""SegNetr as its paper is usually re-implemented; there is no official code.

Baseline here: both branches of a block partition the feature map itself into windows, by a rank-6 view and permute on
(N, H, W, C), gate every window and reverse the partition; the mean over channels is a mean; windows are displaced by
index_select; patch merging is a rank-6 space-to-depth and a strided slice of its channels, patch reverse a
PixelShuffle-like rank-6 reshape; batch norms stand apart from the convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze and excitation: (N, C_in, H, W) -> (N, C, H, W); a residual if C_in == C."""

    def __init__(self, in_channels: int, channels: int, *, hidden: int, squeezed: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden)
        )
        self.act = nn.SiLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(hidden, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, hidden, 1)
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.residual = in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.depthwise(self.act(self.expand(x))))  # (N, hidden, H, W)
        y = y * torch.sigmoid(self.excite(self.act(self.squeeze(self.pool(y)))))
        y = self.project(y)
        return x + y if self.residual else y


def _mbconv(in_channels: int, channels: int) -> MBConv:
    return MBConv(in_channels, channels, hidden=4 * in_channels, squeezed=in_channels // 4)


def window_partition(x: Tensor, side: int) -> Tensor:
    """(N, H, W, C) -> windows (N * H / side * W / side, side * side, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)


def window_reverse(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """Undo `window_partition`: windows (N * H / side * W / side, side * side, C) -> (N, H, W, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // side, width // side, side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def displace(grid: Tensor) -> Tensor:
    """Exchange windows along rows and columns: (N, h, w, c), h and w even -> same. Its own inverse.

    Counted from 1, odd windows move one place back and even ones one place on, with wrap-around.
    """
    for axis in (1, 2):
        count = grid.shape[axis]
        order = [(place - 1 if place % 2 == 0 else place + 1) % count for place in range(count)]
        grid = torch.index_select(grid, axis, torch.tensor(order, device=grid.device))
    return grid


class WindowAttention(nn.Module):
    """Weigh the positions of each window by an MLP and a softmax: windows (B, n, C) -> same."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(positions, positions)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(positions, positions)

    def forward(self, windows: Tensor) -> Tensor:
        weights = windows.mean(dim=-1)  # (B, n)
        weights = self.fc2(self.act(self.fc1(weights))).softmax(dim=-1)
        return windows * weights.unsqueeze(-1)


class LocalGlobal(nn.Module):
    """The weighted sum of a local and a global branch: (N, C, H, W) -> same; H and W are multiples of 2 * window."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        # The softmax over the only position of a 1x1 window is 1: nothing to learn, nothing to do.
        self.local = WindowAttention(window**2) if window > 1 else None
        self.broad = WindowAttention(4 * window**2)
        self.local_weight = nn.Parameter(torch.ones(1))
        self.broad_weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        out = self.local_weight * self._local(x) + self.broad_weight * self._broad(x)
        return out.permute(0, 3, 1, 2).contiguous()

    def _local(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        if self.local is None:
            return x
        windows = self.local(window_partition(x, self.window))
        return window_reverse(windows, self.window, height, width)

    def _broad(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        rows, columns, area = height // self.window, width // self.window, self.window**2
        grid = window_partition(x, self.window).view(-1, rows, columns, area * channels)  # one entry per window
        windows = window_partition(displace(grid), 2).view(-1, 4 * area, channels)  # four windows in each
        windows = self.broad(windows).view(-1, 4, area * channels)
        grid = displace(window_reverse(windows, 2, rows, columns))  # (N, rows, columns, area * C)
        return window_reverse(grid.view(-1, area, channels), self.window, height, width)


class SegNetrBlock(nn.Module):
    """MBConv, window branches and channel MLP, the last two as residuals: (N, C, H, W) -> same."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.mbconv = _mbconv(channels, channels)
        self.gate = LocalGlobal(window)
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.fc1 = nn.Conv2d(channels, 4 * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mbconv(x)
        x = x + self.norm1(self.gate(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


def patch_merge(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 2 C, H / 2, W / 2): every other channel of the four pixels beside each other."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2)
    x = x.permute(0, 3, 5, 1, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)
    return x[:, ::2]


def patch_reverse(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C / 4, 2 H, 2 W): the channels back in the places of their pixels."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, 2, 2, channels // 4, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)


class SegNetr(nn.Module):
    """Four merges, four reverses and skips: (N, 3, S, S) -> logits (N, num_classes, S, S), S a multiple of 32."""

    def __init__(self, num_classes: int, *, width: int) -> None:
        super().__init__()
        half = width // 2
        self.stem = MBConv(3, half, hidden=half, squeezed=half // 4)
        self.encoder = nn.ModuleList(
            SegNetrBlock(width * ratio, window) for ratio, window in ((1, 8), (2, 4), (4, 2), (8, 1))
        )
        self.bottleneck = nn.Sequential(_mbconv(8 * width, 16 * width), nn.Conv2d(16 * width, 2 * width, 1))
        decoder = ((4 * width, 2), (2 * width, 4), (width, 8), (half, 8))
        self.decoder = nn.ModuleList(SegNetrBlock(channels, window) for channels, window in decoder)
        self.reduce = nn.ModuleList(nn.Conv2d(channels, channels // 4, 1) for channels, _ in decoder[:-1])
        self.head = nn.Conv2d(half, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for block in self.encoder:
            x = patch_merge(x)
            skips.append(x)
            x = block(x)
        x = self.bottleneck(x)
        for index, block in enumerate(self.decoder):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat((x, patch_reverse(skips.pop())), dim=1))
            if index < len(self.reduce):
                x = self.reduce[index](x)
        return self.head(x)


def segnetr_32(num_classes: int) -> SegNetr:
    """The small variant, C = 32: 3.4 M parameters."""
    return SegNetr(num_classes, width=32)
