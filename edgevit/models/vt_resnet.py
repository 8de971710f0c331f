"""VT-ResNet: a ResNet whose last stage is Visual Transformer modules on a few tokens (Wu et al., ICCV 2021).

"Visual Transformers: Where Do Transformers Really Belong in Vision Models?" has no official code. Its equations and
tables fix most of the network; this file infers the rest, so that 18, 34, 50 and 101 come near the published sizes:

- Stage 5 of VT-ResNet18/34 works on 512 channels (the appendix's table, not the body's 256) behind a 1x1 convolution
  with batch norm and ReLU; that of 50/101 works on the 1024 channels of layer3 as they are.
- Pixels (keys, values, projector queries) go through 1x1 convolutions in 16 groups, one per head; tokens through dense
  linear layers. All have biases. A bias that adds one number to every score of a softmax (in the filter tokenizer, the
  recurrent keys, the transformer's query and the projector's keys) changes nothing and gets a zero gradient.
- Scores are divided by sqrt(C) in the filter tokenizer, by sqrt(C / heads) in the recurrent tokenizer and the
  projector, by sqrt(512) in the transformer, whose keys and queries have 512 channels and whose MLP has 256.
- No position encoding, no layer norm, no dropout or stochastic depth inside (the last two belong to the recipe).
- `project_last`: the head reads tokens, so the last module's projector serves only callers of `forward_features`, and
  training for classification gives its parameters no gradient. With it VT-ResNet18 has the published 1.569 GMACs and
  10.86 M of the published 11.7 M parameters; without it 1.546 GMACs and 9.79 M. Export drops the unread branch.

Attention folds heads into the batch: rank 3 throughout, softmax on the last axis.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from edgevit.models.resnet import BasicBlock, Bottleneck, resnet_layer
from edgevit.spec import ModelSpec, Preprocess, Task, class_logits, image_input, tier_of

HEADS = 16
KEY_CHANNELS = 512


def _grouped(channels: int) -> nn.Conv2d:
    """The pixel side of an attention: a 1x1 convolution in which each head sees its own channels only."""
    return nn.Conv2d(channels, channels, 1, groups=HEADS)


def _pixel_heads(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * heads, C / heads, H * W)."""
    _, channels, height, width = x.shape
    return x.reshape(-1, channels // HEADS, height * width)


def _token_heads(tokens: Tensor) -> Tensor:
    """(N, L, C) -> (N * heads, C / heads, L)."""
    _, length, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(-1, channels // HEADS, length)


class FilterTokenizer(nn.Module):
    """Tokens as weighted means of pixel values, one learned filter per token. Paper section 3.1.

    x (N, C, H, W) -> tokens (N, L, CT); no earlier tokens are needed.
    """

    def __init__(self, channels: int, token_channels: int, num_tokens: int) -> None:
        super().__init__()
        self.coefficients = nn.Conv2d(channels, num_tokens, 1)
        self.value = _grouped(channels)
        self.embed = nn.Linear(channels, token_channels) if channels != token_channels else nn.Identity()
        self.scale = 1.0 / math.sqrt(channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.coefficients(x) * self.scale).flatten(2).softmax(-1)  # (N, L, H * W), over the pixels
        values = self.value(x).flatten(2)  # (N, C, H * W)
        pooled = torch.bmm(values, weights.transpose(1, 2))  # (N, C, L)
        return self.embed(pooled.transpose(1, 2))


class RecurrentTokenizer(nn.Module):
    """Tokens as weighted means of pixel values, the weights asked for by the previous tokens. Paper section 3.1.

    x (N, C, H, W), tokens (N, L, CT) -> new tokens (N, L, CT).
    """

    def __init__(self, channels: int, token_channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(token_channels, channels)
        self.key = _grouped(channels)
        self.value = _grouped(channels)
        self.embed = nn.Linear(channels, token_channels) if channels != token_channels else nn.Identity()
        self.scale = 1.0 / math.sqrt(channels // HEADS)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = _token_heads(self.query(tokens)).transpose(1, 2)  # (N * heads, L, C / heads)
        scores = torch.bmm(query, _pixel_heads(self.key(x)))  # (N * heads, L, H * W)
        weights = (scores * self.scale).softmax(-1)  # over the pixels
        pooled = torch.bmm(_pixel_heads(self.value(x)), weights.transpose(1, 2))  # (N * heads, C / heads, L)
        pooled = pooled.reshape(-1, x.shape[1], tokens.shape[1])  # (N, C, L)
        return self.embed(pooled.transpose(1, 2))


class TokenTransformer(nn.Module):
    """Attention whose values are the tokens themselves, and an MLP: (N, L, CT) -> same. Paper section 3.2."""

    def __init__(self, token_channels: int) -> None:
        super().__init__()
        self.key = nn.Linear(token_channels, KEY_CHANNELS)
        self.query = nn.Linear(token_channels, KEY_CHANNELS)
        self.fc1 = nn.Linear(token_channels, token_channels // 4)
        self.fc2 = nn.Linear(token_channels // 4, token_channels)
        self.relu = nn.ReLU()
        self.scale = 1.0 / math.sqrt(KEY_CHANNELS)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = torch.bmm(self.key(tokens), self.query(tokens).transpose(1, 2))  # (N, L, L)
        tokens = tokens + torch.bmm((scores * self.scale).softmax(-1), tokens)
        return tokens + self.fc2(self.relu(self.fc1(tokens)))


class Projector(nn.Module):
    """Add to each pixel what it asks of the tokens. Paper section 3.3.

    x (N, C, H, W), tokens (N, L, CT) -> (N, C, H, W).
    """

    def __init__(self, channels: int, token_channels: int) -> None:
        super().__init__()
        self.query = _grouped(channels)
        self.key = nn.Linear(token_channels, channels)
        self.value = nn.Linear(token_channels, channels)
        self.scale = 1.0 / math.sqrt(channels // HEADS)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        key = _token_heads(self.key(tokens)).transpose(1, 2)  # (N * heads, L, C / heads)
        scores = torch.bmm(key, _pixel_heads(self.query(x)))  # (N * heads, L, H * W)
        weights = (scores * self.scale).transpose(1, 2).softmax(-1)  # (N * heads, H * W, L), over the tokens
        values = _token_heads(self.value(tokens))  # (N * heads, C / heads, L)
        return x + torch.bmm(values, weights.transpose(1, 2)).reshape(x.shape)


class VTModule(nn.Module):
    """Tokenizer, transformer and (if `project`) projector; the first module of a stage has `recurrent` off.

    x (N, C, H, W), tokens (N, L, CT) or None in the first module -> the same pair, both renewed.
    """

    def __init__(self, channels: int, token_channels: int, num_tokens: int, *, recurrent: bool, project: bool) -> None:
        super().__init__()
        if recurrent:
            self.tokenizer: nn.Module = RecurrentTokenizer(channels, token_channels)
        else:
            self.tokenizer = FilterTokenizer(channels, token_channels, num_tokens)
        self.transformer = TokenTransformer(token_channels)
        self.projector = Projector(channels, token_channels) if project else None

    def forward(self, x: Tensor, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(x) if tokens is None else self.tokenizer(x, tokens)
        tokens = self.transformer(tokens)
        if self.projector is not None:
            x = self.projector(x, tokens)
        return x, tokens


class VTResNet(nn.Module):
    """ResNet through layer3, then VT modules at stride 16; the mean token gives the logits.

    (N, 3, S, S) -> logits (N, num_classes). `depths` counts the blocks of layer1..3 and `num_modules` those of stage 5,
    2, 3, 3, 3 for 18, 34, 50, 101. Up to layer3 the state-dict keys are torchvision's, so public ResNet weights load.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int],
        num_modules: int,
        project_last: bool,
        num_tokens: int = 16,
        token_channels: int = 1024,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = resnet_layer(block, 64, 64, depths[0], stride=1)
        self.layer2 = resnet_layer(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = resnet_layer(block, 128 * block.expansion, 256, depths[2], stride=2)
        backbone_channels = 256 * block.expansion
        channels = max(512, backbone_channels)
        self.entry = _entry(backbone_channels, channels)
        self.stage5 = nn.ModuleList(
            VTModule(
                channels,
                token_channels,
                num_tokens,
                recurrent=index > 0,
                project=project_last or index < num_modules - 1,
            )
            for index in range(num_modules)
        )
        self.fc = nn.Linear(token_channels, num_classes)
        self.apply(init_weights)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) -> feature map (N, C, S / 16, S / 16) and tokens (N, L, CT), after the last module."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # stride 4
        x = self.layer3(self.layer2(self.layer1(x)))  # stride 16
        x, tokens = self.entry(x), None
        for module in self.stage5:
            x, tokens = module(x, tokens)
        assert tokens is not None  # the first module makes them
        return x, tokens

    def forward(self, x: Tensor) -> Tensor:
        _, tokens = self.forward_features(x)
        # (N, CT, L, 1): XNNPACK delegates a mean of rank 4 over the last two axes only.
        mean = tokens.transpose(1, 2).unsqueeze(-1).mean((2, 3), keepdim=True)
        return self.fc(mean.flatten(1))


def _entry(in_channels: int, channels: int) -> nn.Module:
    """What widens layer3's map to the channels of stage 5, if it is narrower."""
    if in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


def init_weights(module: nn.Module) -> None:
    """Kaiming for plain convolutions, Xavier for grouped ones and linear layers, biases at zero."""
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _build(
    num_classes: int,
    input_size: int,  # every size gives the same network
    *,
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int],
    num_modules: int,
    project_last: bool,
) -> VTResNet:
    return VTResNet(num_classes, block=block, depths=depths, num_modules=num_modules, project_last=project_last)


def _spec(
    name: str,
    *,
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int],
    num_modules: int,
    project_last: bool,
    params: int,
    macs: int,
    top1: float,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        task=Task.CLASSIFY,
        tier=tier_of(params),
        build=partial(_build, block=block, depths=depths, num_modules=num_modules, project_last=project_last),
        inputs=image_input(224),
        outputs=class_logits(1000),
        preprocess=Preprocess.for_input(224, crop_ratio=0.875),
        params=params,
        macs=macs,
        paper="ICCV 2021, Visual Transformers: Where Do Transformers Really Belong in Vision Models?",
        size_multiple=16,
        top1=top1,
        weights="none published",
    )


VARIANTS: tuple[ModelSpec, ...] = (
    _spec(
        "vt_resnet18",
        block=BasicBlock,
        depths=(2, 2, 2),
        num_modules=2,
        project_last=True,
        params=10_857_528,
        macs=1_567_973_376,
        top1=76.8,
    ),
    _spec(
        "vt_resnet34",
        block=BasicBlock,
        depths=(3, 4, 6),
        num_modules=3,
        project_last=False,
        params=18_904_120,
        macs=3_238_420_480,
        top1=79.9,
    ),
    _spec(
        "vt_resnet50",
        block=Bottleneck,
        depths=(3, 4, 6),
        num_modules=3,
        project_last=False,
        params=21_073_720,
        macs=3_578_290_176,
        top1=80.6,
    ),
    _spec(
        "vt_resnet101",
        block=Bottleneck,
        depths=(3, 4, 23),
        num_modules=3,
        project_last=False,
        params=40_065_848,
        macs=7_290_511_360,
        top1=82.3,
    ),
)
