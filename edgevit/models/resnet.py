"""Residual stages with torchvision's keys (He et al., arXiv 1512.03385): what VT-ResNet and VT-FPN stand on."""

from __future__ import annotations

from torch import Tensor, nn

# Weight of a block's last norm at the start. A block near the identity trains better (Goyal et al., arXiv 1706.02677,
# section 5.1, start at zero) and keeps a deep network from growing with every block; at zero a converter's mistake in
# the block would show in no output.
_FIRST_GAIN = 0.2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, C_in, H, W) -> (N, C, H / stride, W / stride). torchvision's keys."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = _last_norm(width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.downsample(x) + self.bn2(self.conv2(y)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions: (N, C_in, H, W) -> (N, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = _last_norm(width * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.downsample(x) + self.bn3(self.conv3(y)))


def _last_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, _FIRST_GAIN)
    return norm


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The identity where shapes agree, else a strided 1x1 convolution; both without or with torchvision's keys."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels),
    )


def resnet_layer(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    """`depth` residual blocks, the first one strided."""
    rest = [block(width * block.expansion, width, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(block(in_channels, width, stride=stride), *rest)
