"""Networks small enough to convert in a second, with the ops that the real ones are made of."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from edgevit.graph.edit import Graph
from edgevit.models.layers import LayerNorm2d
from edgevit.quantization.annotation import annotate
from edgevit.quantization.qparams import QParams, QParamsTable, QuantizedWeight, next_half
from edgevit.quantization.quantized_model import Int8Network, prepare
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, class_logits, image_input, logit_map

SIZE = 32
CLASSES = 5


class TinyClassifier(nn.Module):
    """Convolution, BatchNorm before and after, GELU, dilated depthwise convolution, pooling, linear."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.GELU())
        self.mix = nn.Conv2d(8, 8, 7, padding=9, dilation=3, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.mix(self.norm(x)) * x
        return self.head(self.drop(x.mean((2, 3), keepdim=True).flatten(1)))


class TinySegmenter(nn.Module):
    """Strided convolution, bilinear upsampling, one logit per pixel and class."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(6, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.down(x)))


def seeded(build: type[nn.Module], **arguments: int) -> nn.Module:
    """A network with fixed weights and BatchNorm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    model = build(**arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return model.eval()


def classifier_spec(num_classes: int = CLASSES) -> ModelSpec:
    """The spec of TinyClassifier."""
    return ModelSpec(
        name="tiny_classifier",
        task=Task.CLASSIFY,
        tier=Tier.EDGE,
        build=lambda classes, size: seeded(TinyClassifier, num_classes=classes),
        inputs=image_input(SIZE),
        outputs=class_logits(num_classes),
        preprocess=Preprocess.for_input(SIZE),
        params=sum(p.numel() for p in TinyClassifier(num_classes).parameters()),
        macs=0,
        paper="",
        size_multiple=4,
    )


def segmenter_spec(num_classes: int = 2) -> ModelSpec:
    """The spec of TinySegmenter."""
    return ModelSpec(
        name="tiny_segmenter",
        task=Task.SEGMENT,
        tier=Tier.EDGE,
        build=lambda classes, size: seeded(TinySegmenter, num_classes=classes),
        inputs=image_input(SIZE),
        outputs=logit_map(num_classes, SIZE),
        preprocess=Preprocess.for_input(SIZE),
        params=sum(p.numel() for p in TinySegmenter(num_classes).parameters()),
        macs=0,
        paper="",
        size_multiple=4,
    )


class TinyResidual(nn.Module):
    """What int8 networks are made of: convolutions, a fused activation, a sum, a LayerNorm, a linear layer."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GELU(), nn.Conv2d(8, 8, 1))
        self.norm = LayerNorm2d(8)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.last(self.norm(x + self.mix(x)))
        return self.head(x.mean((2, 3)))


class TinyWide(nn.Module):
    """Weights large enough to store in other forms: dense kernels of every kind, a depthwise one, linear layers."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.dense = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 16, (3, 5), stride=(2, 3), padding=(1, 0)), nn.GELU(),
            nn.Conv2d(16, 24, 3, padding=2, dilation=2), nn.Conv2d(24, 96, 1, stride=2),
        )  # fmt: skip
        self.mix = nn.Conv2d(96, 96, 3, padding=1, groups=96)
        self.head = nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense(self.stem(x))
        return self.head((x + self.mix(x)).mean((2, 3), keepdim=True).flatten(1))


def int8_network() -> Int8Network:
    """TinyResidual with made-up quantization parameters, each unlike all others; those behind a ReLU begin at zero."""
    deployed, steps = prepare(seeded(TinyResidual), residual_spec())
    graph = Graph(deployed)
    annotation = annotate(graph)
    table = QParamsTable(
        {
            node.name: QParams(next_half(0.02 + 0.003 * i), -128 if "relu" in node.name else i - 4)
            for i, node in enumerate(annotation.quantized)
        },
        {node.name: QuantizedWeight.of(graph.constant_value(node.args[1])) for node in annotation.weighted},
    )
    return Int8Network(deployed, table, steps)


def residual_spec() -> ModelSpec:
    """The spec of TinyResidual."""
    return dataclasses.replace(
        classifier_spec(), name="tiny_residual", build=lambda classes, size: seeded(TinyResidual, num_classes=classes)
    )
