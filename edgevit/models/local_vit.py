"""Window attention in DWNet's skeleton: the local attention that Han et al. (arXiv 2106.04263) compare with.

`local_vit_tiny` is Swin-T (Liu et al., arXiv 2103.14030) with that network's parameters, on feature maps: attention in
windows of 7x7 pixels, shifted by half a window in every other block, with a learned bias by relative position. At input
sizes other than multiples of 224 the windows are the largest ones up to 7 that tile the feature map.

State-dict keys are Swin's, without the index and mask tables that Swin saves and anybody can compute.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from edgevit.models.dwnet import Mlp, Skeleton
from edgevit.models.layers import DropPath, LayerNorm2d, PixelLinear, merge_heads, split_heads
from edgevit.spec import Interpolation, ModelSpec, Preprocess, Task, class_logits, image_input, tier_of

_EPS = 1e-5  # of the layer norms
_WINDOW = 7
_HEAD_WIDTH = 32
_MASKED = -100.0  # score of a pixel that the shift brought here from the other side of the feature map
_STRIDE = 4  # of the first layer


def _partition(x: Tensor, side: int) -> Tensor:
    """Windows as the batch: (N, C, H, W) -> (N * H / side * W / side, side * side, C)."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * height // side, side, width // side, side * channels)
    return rows.transpose(1, 2).reshape(-1, side * side, channels)


def _unpartition(windows: Tensor, side: int, size: int) -> Tensor:
    """Undo `_partition` for a feature map of size x size pixels."""
    channels = windows.shape[-1]
    rows = windows.reshape(-1, size // side, side, side * channels)
    return rows.transpose(1, 2).reshape(-1, size, size, channels).permute(0, 3, 1, 2)


def _moved(x: Tensor, step: int) -> Tensor:
    """Shift a feature map by `step` pixels up and to the left, around the edges: (N, C, H, W) -> same."""
    for axis in (2, 3):
        size = x.shape[axis]
        x = torch.cat((x.narrow(axis, step % size, size - step % size), x.narrow(axis, 0, step % size)), axis)
    return x


def _relative_index(side: int) -> Tensor:
    """Which of (2 side - 1)^2 displacements lies between each two of a window's positions: (side^4,)."""
    line = torch.arange(side)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    down, right = (axis[:, None] - axis[None, :] + side - 1 for axis in (rows, columns))
    return (down * (2 * side - 1) + right).flatten()


def _mask(size: int, side: int, step: int) -> Tensor:
    """0 between pixels of a window that were neighbours before the shift, else _MASKED: (windows, side^2, side^2)."""
    region = torch.zeros(size)
    region[size - side : size - step], region[size - step :] = 1.0, 2.0
    regions = _partition((3 * region[:, None] + region[None, :])[None, None], side).squeeze(-1)  # (windows, side^2)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, _MASKED)


class WindowAttention(nn.Module):
    """Multi-head attention among the pixels of each window: (N, C, size, size) -> same. Swin, section 3.2."""

    index: Tensor
    mask: Tensor | None

    def __init__(self, channels: int, size: int, window: int, step: int) -> None:
        super().__init__()
        self.heads = channels // _HEAD_WIDTH
        self.size, self.window, self.step = size, window, step
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads))
        self.register_buffer("index", _relative_index(window), persistent=False)
        mask = _mask(size, window, step).unsqueeze(1).repeat(1, self.heads, 1, 1) if step else None
        self.register_buffer("mask", mask, persistent=False)  # (windows, heads, side^2, side^2)
        self.qkv = PixelLinear(channels, 3 * channels)
        self.proj = PixelLinear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = _moved(self.qkv(x), self.step) if self.step else self.qkv(x)
        parts = _partition(x, self.window).chunk(3, -1)  # (N * windows, side^2, C) each
        query, key, value = (split_heads(part, self.heads) for part in parts)
        scores = torch.bmm(query * _HEAD_WIDTH**-0.5, key.transpose(1, 2))  # (N * windows * heads, side^2, side^2)
        weights = self._placed(scores).softmax(-1).reshape(scores.shape)
        mixed = merge_heads(torch.bmm(weights, value), self.heads)
        mixed = _unpartition(mixed, self.window, self.size)
        return self.proj(_moved(mixed, -self.step) if self.step else mixed)

    def _placed(self, scores: Tensor) -> Tensor:
        """Scores with the bias of their relative positions and, in shifted windows, the mask."""
        positions = self.window**2
        bias = self.relative_position_bias_table[self.index].reshape(positions, positions, self.heads)
        bias = bias.permute(2, 0, 1)  # (heads, side^2, side^2)
        if self.mask is not None:
            bias = (bias + self.mask).flatten(0, 1)  # (windows * heads, side^2, side^2)
        return scores.reshape(-1, len(bias), positions, positions) + bias


class Block(nn.Module):
    """Window attention and MLP as residuals of the layer-normalised feature map: (N, C, size, size) -> same."""

    def __init__(self, channels: int, size: int, window: int, step: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels, eps=_EPS)
        self.attn = WindowAttention(channels, size, window, step)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm2d(channels, eps=_EPS)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _build(num_classes: int, input_size: int, *, embed: int, depths: tuple[int, ...], drop_path: float) -> Skeleton:
    def make_block(layer: int, index: int, channels: int, rate: float) -> Block:
        size = input_size // (_STRIDE * 2**layer)
        window = max(side for side in range(1, _WINDOW + 1) if size % side == 0)
        step = window // 2 if index % 2 and window < size else 0
        return Block(channels, size, window, step, rate)

    return Skeleton(num_classes, embed=embed, depths=depths, drop_path=drop_path, make_block=make_block)


VARIANTS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="local_vit_tiny",
        task=Task.CLASSIFY,
        tier=tier_of(28_288_354),
        build=partial(_build, embed=96, depths=(2, 2, 6, 2), drop_path=0.2),
        inputs=image_input(224),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(224, crop_ratio=0.875, interpolation=Interpolation.BICUBIC),
        params=28_288_354,
        macs=4_498_017_792,
        paper="arXiv 2106.04263",
        size_multiple=32,
        top1=81.3,
        weights="MIT",
    ),
)
