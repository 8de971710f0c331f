"""Mobile-Former as its official code runs it (AAboys/MobileFormer, mobile_former.py and dna_blocks.py).

Baseline here: tokens are (T, N, d), token axis first, copied per image; attention splits heads into rank 4 by view and
permute and multiplies by matmul, its scale after the product; norms are nn.LayerNorm; every hard sigmoid is
relu6(x + 3) * h_max / 6 with h_max 1; dynamic ReLU picks token 0 by index, splits its slopes and shifts them one by
one; batch norms stand apart from the convolutions. Only the grouped 26M variant has channel shuffles: none here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HardSigmoid(nn.Module):
    """relu6(x + 3) / 6 in the official steps: any shape -> the same, in 0..h_max.

    The three numbers are integers there too; ExecuTorch keeps them so and casts each at every inference.
    """

    def __init__(self, h_max: int = 1) -> None:
        super().__init__()
        self.relu = nn.ReLU6()
        self.h_max = h_max

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + 3) * self.h_max / 6


class HardSwish(nn.Module):
    """x * hard_sigmoid(x): any shape -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = HardSigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(x)


class DynamicReLU(nn.Module):
    """max(a1 * x, a2 * x): map (N, C, H, W), hard sigmoids (N, 2 C, 1, 1) -> map."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, slopes: Tensor) -> Tensor:
        half = slopes.shape[1] // 2
        a1, a2 = torch.split(slopes, [half, half], dim=1)
        a1 = (a1 - 0.5) * self.scale + 1.0  # 0..2
        a2 = (a2 - 0.5) * self.scale  # -1..1
        return torch.max(x * a1, x * a2)


class HyperFunction(nn.Module):
    """Slopes of a dynamic ReLU from token 0: tokens (T, N, d) -> (N, 2 C, 1, 1)."""

    def __init__(self, token_dim: int, channels: int) -> None:
        super().__init__()
        self.hyper = nn.Sequential(
            nn.Linear(token_dim, token_dim // 4), nn.ReLU(), nn.Linear(token_dim // 4, 2 * channels), HardSigmoid()
        )

    def forward(self, tokens: Tensor) -> Tensor:
        slopes = self.hyper(tokens[0])  # (N, 2 C)
        return torch.unsqueeze(torch.unsqueeze(slopes, 2), 3)


class LocalToGlobal(nn.Module):
    """Tokens attend to the raw map: (N, C, H, W), (T, N, d) -> tokens (T, N, d)."""

    def __init__(self, channels: int, token_dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.alpha = nn.Sequential(nn.Linear(token_dim, channels), HardSigmoid())
        self.q = nn.Linear(token_dim, channels)
        self.proj = nn.Linear(channels, token_dim)
        self.layer_norm = nn.LayerNorm(token_dim)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        length = tokens.shape[0]
        query = self.q(tokens).view(length, batch, self.heads, -1).permute(1, 2, 0, 3)  # (N, h, T, C/h)
        key = x.view(batch, self.heads, -1, height * width)  # (N, h, C/h, HW), the value too
        attention = ((query @ key) * self.scale).softmax(dim=-1)  # (N, h, T, HW)
        gathered = attention @ key.transpose(-1, -2)  # (N, h, T, C/h)
        gathered = gathered.permute(2, 0, 1, 3).reshape(length, batch, -1)  # (T, N, C)
        gathered = gathered * (self.alpha(tokens) * 2.0)
        return self.layer_norm(tokens + self.proj(gathered))


class GlobalBlock(nn.Module):
    """Self-attention and MLP of the tokens, norms after the residuals: (T, N, d) -> same."""

    def __init__(self, token_dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (token_dim // heads) ** -0.5
        self.ffn = nn.Sequential(nn.Linear(token_dim, 2 * token_dim), nn.GELU(), nn.Linear(2 * token_dim, token_dim))
        self.ffn_norm = nn.LayerNorm(token_dim)
        self.q = nn.Linear(token_dim, token_dim)
        self.channel_mlp = nn.Linear(token_dim, token_dim)
        self.layer_norm = nn.LayerNorm(token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        length, batch, _ = tokens.shape
        query = self.q(tokens).view(length, batch, self.heads, -1).permute(1, 2, 0, 3)  # (N, h, T, d/h)
        key = tokens.permute(1, 2, 0).view(batch, self.heads, -1, length)  # (N, h, d/h, T), the value too
        attention = ((query @ key) * self.scale).softmax(dim=-1)  # (N, h, T, T)
        mixed = attention @ key.transpose(-1, -2)  # (N, h, T, d/h)
        mixed = mixed.permute(2, 0, 1, 3).reshape(length, batch, -1)  # (T, N, d)
        tokens = self.layer_norm(tokens + self.channel_mlp(mixed))
        return self.ffn_norm(tokens + self.ffn(tokens))


class GlobalToLocal(nn.Module):
    """The raw map attends to the tokens: (N, C, H, W), (T, N, d) -> map."""

    def __init__(self, channels: int, token_dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.k = nn.Linear(token_dim, channels)
        self.proj = nn.Linear(token_dim, channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        length = tokens.shape[0]
        value = self.proj(tokens).permute(1, 2, 0)  # (N, C, T)
        query = x.view(batch, self.heads, -1, height * width).transpose(-1, -2)  # (N, h, HW, C/h)
        key = self.k(tokens).permute(1, 2, 0).view(batch, self.heads, -1, length)  # (N, h, C/h, T)
        attention = ((query @ key) * self.scale).softmax(dim=-1)  # (N, h, HW, T)
        value = value.view(batch, self.heads, -1, length)  # (N, h, C/h, T)
        gathered = attention @ value.transpose(-1, -2)  # (N, h, HW, C/h)
        return x + gathered.transpose(-1, -2).reshape(batch, channels, height, width)


def _depthwise(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)


def _pointwise(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 1, bias=False)


class LiteBlock(nn.Module):
    """Convolutions alone; the tokens pass: (N, C_in, H, W), (T, N, d) -> (N, C, H / stride, W / stride), tokens."""

    def __init__(self, in_channels: int, channels: int, *, expand: int, stride: int, token_dim: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.identity = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            _depthwise(in_channels, hidden, stride),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Sequential(),  # the place of a channel shuffle
            _pointwise(hidden, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv(x)
        return (out + x if self.identity else out), tokens


class BottleneckBlock(nn.Module):
    """Inverted bottleneck between the two bridges: (N, C_in, H, W), (T, N, d) -> (N, C, H, W), tokens."""

    def __init__(self, in_channels: int, channels: int, *, expand: int, stride: int, token_dim: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.identity = stride == 1 and in_channels == channels
        self.conv1 = nn.Sequential(_pointwise(in_channels, hidden), nn.BatchNorm2d(hidden))
        self.act1 = DynamicReLU()
        self.hyper1 = HyperFunction(token_dim, hidden)
        self.conv2 = nn.Sequential(_depthwise(hidden, hidden, stride), nn.BatchNorm2d(hidden))
        self.act2 = DynamicReLU()
        self.hyper2 = HyperFunction(token_dim, hidden)
        self.conv3 = nn.Sequential(_pointwise(hidden, channels), nn.BatchNorm2d(channels))
        self.local_global = LocalToGlobal(in_channels, token_dim)
        self.global_block = GlobalBlock(token_dim)
        self.global_local = GlobalToLocal(channels, token_dim)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.global_block(self.local_global(x, tokens))
        out = self.act1(self.conv1(x), self.hyper1(tokens))
        out = self.act2(self.conv2(out), self.hyper2(tokens))
        out = self.conv3(out)
        if self.identity:
            out = out + x
        return self.global_local(out, tokens), tokens


class DownsampleBlock(nn.Module):
    """Two depthwise-pointwise pairs between the bridges: (N, C_in, H, W), (T, N, d) -> (N, C, H/2, W/2), tokens."""

    def __init__(self, in_channels: int, channels: int, *, expand: int, stride: int, token_dim: int) -> None:
        super().__init__()
        hidden, hidden2 = in_channels * expand, channels * 4
        self.conv1 = nn.Sequential(_depthwise(in_channels, hidden, stride), nn.BatchNorm2d(hidden))
        self.act1 = DynamicReLU()
        self.hyper1 = HyperFunction(token_dim, hidden)
        self.conv2 = nn.Sequential(_pointwise(hidden, channels), nn.BatchNorm2d(channels))
        self.conv3 = nn.Sequential(_depthwise(channels, hidden2, 1), nn.BatchNorm2d(hidden2))
        self.act3 = DynamicReLU()
        self.hyper3 = HyperFunction(token_dim, hidden2)
        self.conv4 = nn.Sequential(_pointwise(hidden2, channels), nn.BatchNorm2d(channels))
        self.local_global = LocalToGlobal(in_channels, token_dim)
        self.global_block = GlobalBlock(token_dim)
        self.global_local = GlobalToLocal(channels, token_dim)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.global_block(self.local_global(x, tokens))
        first = self.conv2(self.act1(self.conv1(x), self.hyper1(tokens)))
        out = self.conv4(self.act3(self.conv3(first), self.hyper3(tokens)))
        return self.global_local(out + first, tokens), tokens


class MergeClassifier(nn.Module):
    """Pooled map beside token 0, then two linear layers: (N, C, H, W), (T, N, d) -> logits (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int, *, width: int, token_dim: int) -> None:
        super().__init__()
        hidden = 6 * channels
        self.conv = nn.Sequential(nn.Sequential(), _pointwise(channels, hidden), nn.BatchNorm2d(hidden))
        self.act = nn.ReLU6()
        self.avgpool = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), HardSwish())
        self.fc = nn.Sequential(nn.Linear(hidden + token_dim, width), nn.BatchNorm1d(width), HardSwish())
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(width, num_classes))  # dropout would be the first

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.avgpool(self.act(self.conv(x)))
        x = x.view(x.size(0), -1)
        return self.classifier(self.fc(torch.cat([x, tokens[0]], dim=1)))


_BLOCKS = {"lite": LiteBlock, "down": DownsampleBlock, "block": BottleneckBlock}


class MobileFormer(nn.Module):
    """Stem, blocks that carry map and tokens, classifier: (N, 3, S, S) -> logits (N, num_classes), 32 divides S.

    A row is (kind, expansion, output channels, stride).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stem: int,
        num_tokens: int,
        token_dim: int,
        head_width: int,
        rows: tuple[tuple[str, int, int, int], ...],
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_tokens, token_dim)
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6()
        )
        self.features = nn.ModuleList()
        in_channels = stem
        for kind, expand, channels, stride in rows:
            block = _BLOCKS[kind](in_channels, channels, expand=expand, stride=stride, token_dim=token_dim)
            self.features.append(block)
            in_channels = channels
        self.local_global = LocalToGlobal(in_channels, token_dim)
        self.classifier = MergeClassifier(in_channels, num_classes, width=head_width, token_dim=token_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens.weight[None].repeat(x.shape[0], 1, 1).clone()  # (N, T, d)
        tokens = tokens.permute(1, 0, 2)  # (T, N, d)
        x = self.stem(x)
        for block in self.features:
            x, tokens = block(x, tokens)
        tokens = self.local_global(x, tokens)
        return self.classifier(x, tokens)


def mobile_former_294m(num_classes: int) -> MobileFormer:
    """The 294M variant: 11.4 M parameters."""
    rows = (
        ("lite", 2, 16, 1),
        ("down", 6, 24, 2),
        ("block", 4, 24, 1),
        ("down", 6, 48, 2),
        ("block", 4, 48, 1),
        ("down", 6, 96, 2),
        ("block", 4, 96, 1),
        ("block", 6, 128, 1),
        ("block", 6, 128, 1),
        ("down", 6, 192, 2),
        ("block", 6, 192, 1),
        ("block", 6, 192, 1),
    )
    return MobileFormer(num_classes, stem=16, num_tokens=6, token_dim=192, head_width=1920, rows=rows)
