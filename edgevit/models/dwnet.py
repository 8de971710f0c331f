"""DWNet: Swin's skeleton with depthwise convolutions for window attention (Han et al., arXiv 2106.04263).

Three kinds of 7x7 kernel: one per channel (`dwnet`), one per channel and image (`dynamic_dwnet`), and one per pixel,
which a group of channels shares (`i_dynamic_dwnet`, inhomogeneous). The paper's code at its last commit gives the
dynamic models a plain convolution by mistake; these are the published networks.

Differs from that code in form only: everything works on (N, C, H, W) feature maps, linear layers as 1x1
convolutions.
State-dict keys and results are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.layers import DropPath, LayerNorm2d, PixelLinear, drop_path_rates
from edgevit.spec import Interpolation, ModelSpec, Preprocess, Task, class_logits, image_input, tier_of

_EPS = 1e-5  # of the layer norms
_KERNEL = 7
_MLP_RATIO = 4
_GROUPS = 32  # of channels that share an inhomogeneous kernel


class DynamicDepthwise(nn.Module):
    """Depthwise convolution whose kernels come from the image's mean: (N, C, H, W) -> same. Paper section 2.3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 4
        self.conv1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, channels * _KERNEL**2, 1)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pooled = x.mean((2, 3), keepdim=True)
        kernels = self.conv2(F.relu(self.bn(self.conv1(pooled))))  # (N, C * 49, 1, 1)
        kernels = kernels.reshape(batch * channels, 1, _KERNEL, _KERNEL)
        together = x.reshape(1, batch * channels, height, width)
        y = F.conv2d(together, kernels, padding=_KERNEL // 2, groups=batch * channels)
        return y.reshape(x.shape) + self.bias.view(1, -1, 1, 1)


class InhomogeneousDepthwise(nn.Module):
    """Convolution whose kernels come from each pixel: (N, C, H, W) -> same. Paper section 2.3.

    C / 32 consecutive channels share a kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 4
        self.conv1 = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(hidden, _GROUPS * _KERNEL**2, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernels = self.conv2(self.conv1(x)).reshape(batch * _GROUPS, 1, _KERNEL**2, height * width)
        patches = F.unfold(x, _KERNEL, padding=_KERNEL // 2)  # (N, C * 49, HW)
        patches = patches.reshape(batch * _GROUPS, channels // _GROUPS, _KERNEL**2, height * width)
        return (patches * kernels).sum(2).reshape(x.shape)


def plain_depthwise(channels: int) -> nn.Conv2d:
    """One 7x7 kernel per channel."""
    return nn.Conv2d(channels, channels, _KERNEL, padding=_KERNEL // 2, groups=channels)


class DepthwiseMixer(nn.Module):
    """Depthwise convolution between two 1x1 ones, in the place of attention: (N, C, H, W) -> same."""

    def __init__(self, channels: int, depthwise: nn.Module) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv = depthwise
        self.bn = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv0(x)))
        x = F.relu(self.bn(self.conv(x)))
        return self.bn2(self.conv2(x))


class Mlp(nn.Module):
    """Two linear layers at each pixel: (N, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = PixelLinear(channels, _MLP_RATIO * channels)
        self.fc2 = PixelLinear(_MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Mixer of the feature map and MLP of it batch-normalised, as residuals: (N, C, H, W) -> same."""

    def __init__(self, channels: int, depthwise: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.attn2conv = DepthwiseMixer(channels, depthwise)
        self.drop_path = DropPath(drop_path)
        self.mlp = Mlp(channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn2conv(x))
        return x + self.drop_path(self.mlp(self.bn(x)))


class PatchEmbed(nn.Module):
    """4x4 patches and layer norm: (N, 3, H, W) -> (N, C, H / 4, W / 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = LayerNorm2d(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class PatchMerging(nn.Module):
    """2x2 pixels concatenated, normalised and reduced: (N, C, H, W) -> (N, 2 C, H / 2, W / 2).

    Pixels are counted column by column: upper left, lower left, upper right, lower right.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = PixelLinear(4 * channels, 2 * channels, bias=False)
        self.norm = LayerNorm2d(4 * channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(batch * height // 2, 2, width, channels)
        merged = rows.transpose(1, 2).reshape(batch, height // 2, width // 2, 4 * channels)
        return self.reduction(self.norm(merged.permute(0, 3, 1, 2)))


class Layer(nn.Module):
    """Blocks of one resolution, and the merging that ends all but the last: (N, C, H, W) -> (N, 2 C, H / 2, W / 2)."""

    def __init__(self, blocks: list[nn.Module], channels: int, *, merges: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = PatchMerging(channels) if merges else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class Skeleton(nn.Module):
    """Patches, four layers of blocks at stride 4 to 32, spatial mean: (N, 3, S, S) -> logits (N, num_classes).

    make_block(layer, index, channels, drop_path rate) gives each block; rates grow linearly from 0 to `drop_path`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        embed: int,
        depths: tuple[int, ...],
        drop_path: float,
        make_block: Callable[[int, int, int, float], nn.Module],
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(embed)
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.layers = nn.ModuleList()
        for number, depth in enumerate(depths):
            channels = embed * 2**number
            blocks = [make_block(number, index, channels, next(rates)) for index in range(depth)]
            self.layers.append(Layer(blocks, channels, merges=number < len(depths) - 1))
        self.norm = LayerNorm2d(channels, eps=_EPS)
        self.head = nn.Linear(channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean((2, 3), keepdim=True).flatten(1))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build(
    num_classes: int,
    input_size: int,  # every size gives the same network
    *,
    embed: int,
    depths: tuple[int, ...],
    drop_path: float,
    depthwise: Callable[[int], nn.Module],
) -> Skeleton:
    return Skeleton(
        num_classes,
        embed=embed,
        depths=depths,
        drop_path=drop_path,
        make_block=lambda _layer, _index, channels, rate: Block(channels, depthwise(channels), rate),
    )


def _spec(
    name: str,
    depthwise: Callable[[int], nn.Module],
    *,
    params: int,
    macs: int,
    top1: float,
    weights: str = "MIT",
) -> ModelSpec:
    tiny = name.endswith("tiny")
    embed, depths, drop_path = (96, (2, 2, 6, 2), 0.2) if tiny else (128, (2, 2, 18, 2), 0.5)
    return ModelSpec(
        name=name,
        task=Task.CLASSIFY,
        tier=tier_of(params),
        build=partial(_build, embed=embed, depths=depths, drop_path=drop_path, depthwise=depthwise),
        inputs=image_input(224),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(224, crop_ratio=0.875, interpolation=Interpolation.BICUBIC),
        params=params,
        macs=macs,
        paper="arXiv 2106.04263",
        size_multiple=32,
        top1=top1,
        weights=weights,
    )


VARIANTS: tuple[ModelSpec, ...] = (
    _spec("dwnet_tiny", plain_depthwise, params=24_172_744, macs=3_728_593_920, top1=81.2),
    _spec("dwnet_base", plain_depthwise, params=74_347_112, macs=12_814_569_472, top1=83.2),
    _spec("dynamic_dwnet_tiny", DynamicDepthwise, params=51_131_752, macs=3_755_550_720, top1=81.8),
    _spec("dynamic_dwnet_base", DynamicDepthwise, params=161_597_928, macs=12_901_814_272, top1=83.2),
    _spec(
        "i_dynamic_dwnet_tiny",
        InhomogeneousDepthwise,
        params=26_244_280,
        macs=4_375_864_320,
        top1=81.8,
        weights="none published",
    ),
    _spec(
        "i_dynamic_dwnet_base",
        InhomogeneousDepthwise,
        params=80_253_608,
        macs=14_342_328_320,
        top1=83.4,
        weights="none published",
    ),
)
