"""SegNetr: a U-shaped segmentation network with window gates and cost-free skips (Cheng et al., MICCAI 2023).

"SegNetr: Rethinking the Local-Global Interactions and Skip Connections in U-Shaped Networks" has no official code.
Inferred here, with counts that fix most of it (12,224,969 parameters for C = 64, 3,417,385 for C = 32):

- Widths C = 64 (`segnetr_64`) and C = 32 (`segnetr_32`); all norms are batch norms, so that they fold when deployed.
- MBConv: expansion 4, Swish, squeeze to a quarter of the input's channels. The first one, from the image, expands 3 to
  C / 2 channels and squeezes to C / 8: an expansion counted from 3 channels would starve it.
- Patch merging keeps every other channel and has no weights. Channels of the space-to-depth are counted pixel by
  pixel: dropping every other one before it or after it is the same, and a merge reversed is `x[:, ::2]`, the skip.
- A block's gate is the sum of a local and a global softmax, each times one learned number that starts at 1. Both
  branches gate the same feature map, so one multiplication by the summed gate does for both. The spatial MLP is Linear,
  GELU, Linear with biases, all n x n for n positions; for one position its softmax is 1 and there is no MLP.
- Positions of a global window are counted window by window, then pixel by pixel: a relabelling of its MLP's channels.
- The last decoder block, at full resolution, has windows of 8 as the one before it. The 1x1 convolutions of the decoder
  have biases and no norm. The output has one logit map per class: one class is foreground against background.

The means over channels are taken first: windows, displacement and softmax only touch feature maps of one
channel, in rank 4.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.spec import ModelSpec, Preprocess, Task, Tier, image_input, logit_map


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze and excitation: (N, C_in, H, W) -> (N, C, H, W); a residual if C_in == C.

    `hidden` and `squeezed` are the channels of the depthwise convolution and of the excitation.
    """

    def __init__(self, in_channels: int, channels: int, *, hidden: int, squeezed: int) -> None:
        super().__init__()
        self.expand = _conv_norm(in_channels, hidden, 1)
        self.depthwise = _conv_norm(hidden, hidden, 3, groups=hidden)
        self.squeeze = nn.Conv2d(hidden, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, hidden, 1)
        self.project = _conv_norm(hidden, channels, 1)
        self.residual = in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.depthwise(F.silu(self.expand(x))))  # (N, hidden, H, W)
        pooled = y.mean((2, 3), keepdim=True)  # (N, hidden, 1, 1)
        y = self.project(y * self.excite(F.silu(self.squeeze(pooled))).sigmoid())
        return x + y if self.residual else y


def _mbconv(in_channels: int, channels: int) -> MBConv:
    return MBConv(in_channels, channels, hidden=4 * in_channels, squeezed=in_channels // 4)


def _conv_norm(in_channels: int, channels: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


def partition(grid: Tensor, side: int) -> Tensor:
    """Gather windows into channels, row by row: (N, H, W, c) -> (N, H / side, W / side, side * side * c)."""
    _, height, width, channels = grid.shape
    rows = grid.reshape(-1, side, width // side, side * channels)  # (N * H / side, side, W / side, side * c)
    return rows.transpose(1, 2).reshape(-1, height // side, width // side, side * side * channels)


def unpartition(grid: Tensor, side: int) -> Tensor:
    """Undo `partition`: (N, h, w, side * side * c) -> (N, h * side, w * side, c)."""
    _, height, width, positions = grid.shape
    rows = grid.reshape(-1, width, side, positions // side)  # (N * h, w, side, side * c)
    channels = positions // (side * side)
    return rows.transpose(1, 2).reshape(-1, height * side, width * side, channels)


def displace(grid: Tensor) -> Tensor:
    """Displace windows along rows and columns: (N, h, w, c), h and w even -> same. Its own inverse.

    Counted from 1, odd windows move one place back and even ones one place on, with wrap-around: h windows come to
    stand in the order h, 3, 2, 5, 4, ..., 1. Those that share a global window were then three apart, around the edge.
    """
    batch, height, width, channels = grid.shape
    grid = _swap_across_pairs(grid.reshape(batch, height, 1, width * channels))
    grid = _swap_across_pairs(grid.reshape(batch * height, width, 1, channels))
    return grid.reshape(batch, height, width, channels)


def _swap_across_pairs(x: Tensor) -> Tensor:
    """Reorder axis 1 of (B, n, 1, c) to n, 3, 2, 5, 4, ..., 1: slices and concatenations only."""
    batch, count, _, channels = x.shape
    ring = torch.cat((x[:, -1:], x, x[:, :1]), 1)  # (B, n + 2, 1, c): n, 1, 2, ..., n, 1
    pairs = ring.reshape(batch, count // 2 + 1, 2, channels)  # (n, 1), (2, 3), ..., (n, 1)
    swapped = torch.cat((pairs[:, :-1, :1], pairs[:, 1:, 1:]), 2)  # (n, 3), (2, 5), ..., (n - 2, 1)
    return swapped.reshape(batch, count, 1, channels)


class WindowSoftmax(nn.Module):
    """An MLP over the positions of each window, then a softmax over them: (N, h, w, n) -> same."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(positions, positions)
        self.fc2 = nn.Linear(positions, positions)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.reshape(-1, x.shape[-1])  # (N * h * w, n): a matrix leaves converters no layout to guess
        return self.fc2(F.gelu(self.fc1(windows))).softmax(-1).reshape(x.shape)


class WindowGate(nn.Module):
    """Weigh each pixel against its window, and against a window twice as wide of displaced windows.

    (N, C, H, W) -> gate (N, 1, H, W); H and W are multiples of 2 * window.
    """

    average: Tensor

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("average", torch.full((1, channels, 1, 1), 1.0 / channels), persistent=False)
        # A softmax over one position is 1 whatever it is given.
        self.local = WindowSoftmax(window**2) if window > 1 else None
        self.broad = WindowSoftmax(4 * window**2)
        self.local_weight = nn.Parameter(torch.ones(1))
        self.broad_weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        # XNNPACK delegates no mean over channels; as a product it stays inside. 1 / C is exact for powers of two.
        mean = F.conv2d(x, self.average)  # (N, 1, H, W)
        # One channel: channels-first and channels-last are the same numbers in the same order.
        grid = partition(mean.reshape(-1, height, width, 1), self.window)  # (N, h, w, P * P)
        broad = self.broad(partition(displace(grid), 2))  # (N, h / 2, w / 2, 4 * P * P)
        gate = self.broad_weight * displace(unpartition(broad, 2))  # (N, h, w, P * P)
        gate = gate + (self.local_weight if self.local is None else self.local_weight * self.local(grid))
        return unpartition(gate, self.window).reshape(-1, 1, height, width)


class SegNetrBlock(nn.Module):
    """MBConv, window gate and channel MLP, the last two as residuals: (N, C, H, W) -> same."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.mbconv = _mbconv(channels, channels)
        self.gate = WindowGate(channels, window)
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.fc1 = nn.Conv2d(channels, 4 * channels, 1)
        self.fc2 = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mbconv(x)
        x = x + self.norm1(x * self.gate(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # (N, 4 C, H, W) inside


def space_to_depth(x: Tensor) -> Tensor:
    """Half the resolution without weights: (N, c, H, W) -> (N, 4 c, H / 2, W / 2).

    Output channels: the upper left pixels' c, the upper right ones', the lower left ones', the lower right ones'.
    """
    return partition(x.permute(0, 2, 3, 1), 2).permute(0, 3, 1, 2)  # channels last, where windows move in rank 4


class SegNetr(nn.Module):
    """U-shaped network of four merges and four reverses: images (N, 3, S, S) -> logits (N, num_classes, S, S).

    S is a multiple of 32: windows are 8 pixels wide at half resolution, and displacing needs an even number of them.
    A skip is what a merge keeps: every other channel at full resolution.
    """

    def __init__(self, num_classes: int, *, width: int) -> None:
        super().__init__()
        half = width // 2
        self.stem = MBConv(3, half, hidden=half, squeezed=half // 4)
        self.encoder = nn.ModuleList(
            SegNetrBlock(width * ratio, window) for ratio, window in ((1, 8), (2, 4), (4, 2), (8, 1))
        )
        self.bottleneck = nn.Sequential(
            _mbconv(8 * width, 16 * width),
            nn.Conv2d(16 * width, 2 * width, 1),
        )
        decoder_widths = (4 * width, 2 * width, width, half)
        self.decoder = nn.ModuleList(
            SegNetrBlock(channels, window) for channels, window in zip(decoder_widths, (2, 4, 8, 8), strict=True)
        )
        # The block at full resolution is followed by the head instead.
        self.reduce = nn.ModuleList(nn.Conv2d(channels, channels // 4, 1) for channels in decoder_widths[:-1])
        self.head = nn.Conv2d(half, num_classes, 1)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, C / 2, S, S)
        skips = []
        for block in self.encoder:
            skips.append(x[:, ::2])
            x = block(space_to_depth(skips[-1]))  # C, 2 C, 4 C, 8 C channels at S / 2, S / 4, S / 8, S / 16
        x = self.bottleneck(x)  # (N, 2 C, S / 16, S / 16)
        for index, block in enumerate(self.decoder):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat((x, skips.pop()), 1))  # 4 C, 2 C, C, C / 2 channels at S / 8 up to S
            if index < len(self.reduce):
                x = self.reduce[index](x)
        return self.head(x)


def _init_weights(module: nn.Module) -> None:
    """Inferred too: PyTorch's own start shrinks the signal until the output is nearly the head's bias alone."""
    if isinstance(module, nn.Conv2d):
        # A gain of 1: with that of ReLU the residual sums of untrained blocks grow to 1e5.
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _build(num_classes: int, input_size: int, *, width: int) -> SegNetr:  # every input size gives the same network
    return SegNetr(num_classes, width=width)


def _spec(name: str, *, width: int, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.SEGMENT,
        tier=Tier.EDGE,
        build=partial(_build, width=width),
        inputs=image_input(224),
        outputs=logit_map(1, 224),
        preprocess=Preprocess.for_input(224),
        params=params,
        macs=macs,
        paper="MICCAI 2023, SegNetr",
        size_multiple=32,
        weights="none published",
    )


VARIANTS: tuple[ModelSpec, ...] = (
    _spec("segnetr_64", width=64, params=12_224_969, macs=7_551_040_800),
    _spec("segnetr_32", width=32, params=3_417_385, macs=1_972_580_768),
)
