"""VT-FPN: a feature pyramid whose levels talk through a few tokens (Wu et al., ICCV 2021).

"Visual Transformers: Where Do Transformers Really Belong in Vision Models?" has no official code. The paper fixes
8 tokens of 1024 channels from each level, one transformer over all 32, and their projection back onto each level; this
file infers the rest:

- Levels are ResNet's layer1 to layer4, each brought to 256 channels by a 1x1 convolution, which is also the width at
  which they are summed. This pyramid has 2.5 G multiply-accumulates where the paper's has 2.0 G at nearly this size.
- Tokenizer, transformer and projector are those of VT-ResNet, with its biases and scales.
- Levels are resized bilinearly to stride 4, summed, classified by a 1x1 convolution and resized to the input's size.
- 20 classes at 480x480 stand for the paper's LIP, 20 classes at 473x473, which is no multiple of the stride.

The ResNet has torchvision's state-dict keys, so that public weights load.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.resnet import Bottleneck, resnet_layer
from edgevit.models.vt_resnet import FilterTokenizer, Projector, TokenTransformer, init_weights
from edgevit.spec import ModelSpec, Preprocess, Task, image_input, logit_map, tier_of

_WIDTHS = (64, 128, 256, 512)  # of the residual stages, before their expansion
_LEVEL_CHANNELS = 256
_TOKEN_CHANNELS = 1024
_TOKENS = 8  # of each level


class VTFPN(nn.Module):
    """ResNet, tokens of its four levels, a transformer over all of them: (N, 3, S, S) -> logits (N, num_classes, S, S).

    S is a multiple of 32. `depths` counts the blocks of layer1..4. Paper section 4.2.
    """

    def __init__(self, num_classes: int, *, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = 64
        # torchvision's names are layer1, layer2, ...: numbered attributes, not a list.
        for number, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True), start=1):
            stride = 1 if number == 1 else 2
            setattr(self, f"layer{number}", resnet_layer(Bottleneck, in_channels, width, depth, stride=stride))
            in_channels = width * Bottleneck.expansion
        laterals = [nn.Conv2d(width * Bottleneck.expansion, _LEVEL_CHANNELS, 1) for width in _WIDTHS]
        self.lateral = nn.ModuleList(laterals)
        self.tokenizers = nn.ModuleList(FilterTokenizer(_LEVEL_CHANNELS, _TOKEN_CHANNELS, _TOKENS) for _ in _WIDTHS)
        self.transformer = TokenTransformer(_TOKEN_CHANNELS)
        self.projectors = nn.ModuleList(Projector(_LEVEL_CHANNELS, _TOKEN_CHANNELS) for _ in _WIDTHS)
        self.head = nn.Conv2d(_LEVEL_CHANNELS, num_classes, 1)
        self.apply(init_weights)
        for lateral in laterals:  # no ReLU follows: a gain of 1
            nn.init.xavier_uniform_(lateral.weight)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, S, S) -> four feature maps of 256 channels at stride 4 to 32, each with all levels' tokens."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        levels = []
        for number, lateral in enumerate(self.lateral, start=1):
            x = getattr(self, f"layer{number}")(x)
            levels.append(lateral(x))
        tokens = [tokenizer(level) for tokenizer, level in zip(self.tokenizers, levels, strict=True)]
        tokens = self.transformer(torch.cat(tokens, 1))  # (N, 32, 1024)
        return [projector(level, tokens) for projector, level in zip(self.projectors, levels, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.forward_features(x)
        for number, level in enumerate(rest, start=1):
            first = first + _enlarged(level, 2**number)
        return _enlarged(self.head(first), 4)


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _build(num_classes: int, input_size: int, *, depths: tuple[int, ...]) -> VTFPN:
    return VTFPN(num_classes, depths=depths)  # every input size gives the same network


def _spec(name: str, *, depths: tuple[int, ...], params: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.SEGMENT,
        tier=tier_of(params),
        build=partial(_build, depths=depths),
        inputs=image_input(480),
        outputs=logit_map(20, 480),
        preprocess=Preprocess.for_input(480),
        params=params,
        macs=macs,
        paper="ICCV 2021, Visual Transformers: Where Do Transformers Really Belong in Vision Models?",
        size_multiple=32,
        weights="none published",
    )


VARIANTS: tuple[ModelSpec, ...] = (
    _spec("vt_fpn_r50", depths=(3, 4, 6, 3), params=29_267_316, macs=21_286_416_384),
    _spec("vt_fpn_r101", depths=(3, 4, 23, 3), params=48_259_444, macs=38_332_329_984),
)
