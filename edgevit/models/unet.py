"""U-Net: the baseline of segmentation (Ronneberger et al., MICCAI 2015), with its own skips or those of SegNetr.

Four levels of two 3x3 convolutions each, then four levels back. Different from the paper: convolutions are padded, so
that the output has the size of the input, and followed by BatchNorm; widths start at 20 channels, for a network of
about the size of SegNetr-32; and on the way up a 1x1 convolution and bilinear enlargement stand for the 2x2 transposed
convolution. In `unet_irsc` the way down keeps no copy and pools nothing: merging as SegNetr does moves every other
channel to depth without weights, and what it kept is the skip. That takes as many multiplications as the plain
network: half a skip saves on the way up what the wider merge costs on the way down.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.segnetr import space_to_depth
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, image_input, logit_map

_LEVELS = 4


def _convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """Twice convolution, norm and ReLU: (N, C_in, H, W) -> (N, C, H, W)."""
    layers: list[nn.Module] = []
    for width in (in_channels, channels):
        layers += [nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images (N, 3, S, S) -> logits (N, num_classes, S, S); S is a multiple of 16.

    irsc: skips without copies, after SegNetr's information-retaining skip connection: every other channel at full
    resolution goes across, and the same numbers, space to depth, go down.
    """

    def __init__(self, num_classes: int, *, width: int, irsc: bool) -> None:
        super().__init__()
        self.irsc = irsc
        widths = [width << level for level in range(_LEVELS + 1)]
        above = [3, *(2 * channels if irsc else channels for channels in widths[:-1])]
        self.encoder = nn.ModuleList(_convolutions(*pair) for pair in zip(above, widths, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for channels in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(
            _convolutions(channels + (channels // 2 if irsc else channels), channels)
            for channels in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.encoder[:-1]:
            x = block(x)  # C, 2 C, 4 C, 8 C channels at S, S / 2, S / 4, S / 8
            skips.append(x[:, ::2] if self.irsc else x)
            x = space_to_depth(skips[-1]) if self.irsc else F.max_pool2d(x, 2)
        x = self.encoder[-1](x)  # (N, 16 C, S / 16, S / 16)
        for reduce, block in zip(self.reduce, self.decoder, strict=True):
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat((x, skips.pop()), 1))  # 8 C, 4 C, 2 C, C channels at S / 8 up to S
        return self.head(x)


def _build(num_classes: int, input_size: int, *, irsc: bool) -> UNet:  # every input size gives the same network
    return UNet(num_classes, width=20, irsc=irsc)


def _spec(name: str, *, irsc: bool, params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.SEGMENT,
        tier=Tier.EDGE,
        build=partial(_build, irsc=irsc),
        inputs=image_input(224),
        outputs=logit_map(1, 224),
        preprocess=Preprocess.for_input(224),
        params=params,
        macs=macs,
        paper="MICCAI 2015, U-Net" + ("; MICCAI 2023, SegNetr" if irsc else ""),
        size_multiple=2**_LEVELS,
    )


VARIANTS: tuple[ModelSpec, ...] = (
    _spec("unet", irsc=False, params=2_830_141, macs=3_500_277_760),
    _spec("unet_irsc", irsc=True, params=3_289_141, macs=3_500_277_760),
)
