"""VT-ResNet as public code writes it: torchvision's ResNet, then the paper's pseudo-code; there is no official code.

Baseline here: heads are an axis of their own, (N, heads, C / heads, L), and attention is a broadcasting rank-4 matmul;
scores are divided after the product; the tokenizers take their softmax over axis 2 of (N, heads, H * W, L), which is
not the last; tokens turn by transpose and reshape; the head takes the mean over tokens; batch norms stand apart.
The parameters and what they compute are those inferred for `edgevit.models.vt_resnet`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 16


class BasicBlock(nn.Module):
    """torchvision's: two 3x3 convolutions and a shortcut, (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + identity)


def _layer(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, 1) for _ in range(depth - 1)]
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)


def _map_heads(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, heads, C / heads, H * W)."""
    batch, channels, height, width = x.shape
    return x.view(batch, HEADS, channels // HEADS, height * width)


def _token_heads(tokens: Tensor) -> Tensor:
    """(N, L, C) -> (N, heads, C / heads, L)."""
    batch, length, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, HEADS, channels // HEADS, length)


def _pool(values: Tensor, scores: Tensor) -> Tensor:
    """Values (N, C, H, W), scores (N, heads or 1, H * W, L) -> weighted means over the pixels (N, L, C)."""
    coefficients = F.softmax(scores, dim=2)
    pooled = torch.matmul(_map_heads(values), coefficients)  # (N, heads, C / heads, L)
    return pooled.view(values.shape[0], values.shape[1], -1).transpose(1, 2)


class FilterTokenizer(nn.Module):
    """Tokens by one learned filter each: (N, C, H, W) -> (N, L, CT)."""

    def __init__(self, channels: int, token_channels: int, num_tokens: int) -> None:
        super().__init__()
        self.coefficients = nn.Conv2d(channels, num_tokens, 1)
        self.value = nn.Conv2d(channels, channels, 1, groups=HEADS)
        self.embed = nn.Linear(channels, token_channels)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.coefficients(x)
        batch, length, height, width = scores.shape
        scores = scores.view(batch, 1, length, height * width).permute(0, 1, 3, 2)  # (N, 1, H * W, L)
        return self.embed(_pool(self.value(x), scores / math.sqrt(x.shape[1])))


class RecurrentTokenizer(nn.Module):
    """Tokens by what the previous tokens ask: (N, C, H, W), (N, L, CT) -> (N, L, CT)."""

    def __init__(self, channels: int, token_channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(token_channels, channels)
        self.key = nn.Conv2d(channels, channels, 1, groups=HEADS)
        self.value = nn.Conv2d(channels, channels, 1, groups=HEADS)
        self.embed = nn.Linear(channels, token_channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = _token_heads(self.query(tokens))  # (N, heads, C / heads, L)
        key = _map_heads(self.key(x))  # (N, heads, C / heads, H * W)
        scores = torch.matmul(key.permute(0, 1, 3, 2), query)  # (N, heads, H * W, L)
        return self.embed(_pool(self.value(x), scores / math.sqrt(x.shape[1] / HEADS)))


class Transformer(nn.Module):
    """Attention whose values are the tokens, and an MLP: (N, L, CT) -> same."""

    def __init__(self, token_channels: int, key_channels: int = 512) -> None:
        super().__init__()
        self.key = nn.Linear(token_channels, key_channels)
        self.query = nn.Linear(token_channels, key_channels)
        self.fc1 = nn.Linear(token_channels, token_channels // 4)
        self.fc2 = nn.Linear(token_channels // 4, token_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        key, query = self.key(tokens), self.query(tokens)
        scores = torch.matmul(key, query.permute(0, 2, 1)) / math.sqrt(key.shape[2])  # (N, L, L)
        tokens = tokens + torch.matmul(F.softmax(scores, dim=2), tokens)
        return tokens + self.fc2(F.relu(self.fc1(tokens)))


class Projector(nn.Module):
    """Add to each pixel what it asks of the tokens: (N, C, H, W), (N, L, CT) -> map."""

    def __init__(self, channels: int, token_channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1, groups=HEADS)
        self.key = nn.Linear(token_channels, channels)
        self.value = nn.Linear(token_channels, channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        value = _token_heads(self.value(tokens))  # (N, heads, C / heads, L)
        key = _token_heads(self.key(tokens))  # (N, heads, C / heads, L)
        query = _map_heads(self.query(x)).permute(0, 1, 3, 2)  # (N, heads, H * W, C / heads)
        scores = torch.matmul(query, key) / math.sqrt(channels / HEADS)  # (N, heads, H * W, L)
        projected = torch.matmul(value, F.softmax(scores, dim=3).permute(0, 1, 3, 2))
        return x + projected.view(batch, -1, height, width)


class VTModule(nn.Module):
    """Tokenizer, transformer, projector; the first module is given no tokens and returns both renewed."""

    def __init__(self, channels: int, token_channels: int, num_tokens: int, *, recurrent: bool) -> None:
        super().__init__()
        if recurrent:
            self.tokenizer: nn.Module = RecurrentTokenizer(channels, token_channels)
        else:
            self.tokenizer = FilterTokenizer(channels, token_channels, num_tokens)
        self.transformer = Transformer(token_channels)
        self.projector = Projector(channels, token_channels)

    def forward(self, x: Tensor, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(x) if tokens is None else self.tokenizer(x, tokens)
        tokens = self.transformer(tokens)
        return self.projector(x, tokens), tokens


class VTResNet(nn.Module):
    """ResNet through layer3, then VT modules: (N, 3, S, S) -> logits (N, num_classes), 16 divides S."""

    def __init__(
        self,
        num_classes: int,
        *,
        depths: tuple[int, int, int],
        num_modules: int,
        channels: int = 512,
        num_tokens: int = 16,
        token_channels: int = 1024,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(64, 64, depths[0], 1)
        self.layer2 = _layer(64, 128, depths[1], 2)
        self.layer3 = _layer(128, 256, depths[2], 2)
        self.entry = nn.Sequential(nn.Conv2d(256, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.stage5 = nn.ModuleList(
            VTModule(channels, token_channels, num_tokens, recurrent=index > 0) for index in range(num_modules)
        )
        self.fc = nn.Linear(token_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        x, tokens = self.entry(x), None
        for module in self.stage5:
            x, tokens = module(x, tokens)
        assert tokens is not None  # the first module makes them
        return self.fc(tokens.mean(dim=1))


def vt_resnet18(num_classes: int) -> VTResNet:
    """The smallest variant: 10.9 M parameters."""
    return VTResNet(num_classes, depths=(2, 2, 2), num_modules=2)
