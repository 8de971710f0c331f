"""Networks whose files were wrong on phones, or could be: equal weights, constants that nothing packs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tiny import CLASSES

WIDTH = 48  # the smallest at which a linear layer is large enough for int8 weights


class Scaled(nn.Module):
    """Blocks as in ConvNeXt and VAN: depthwise, LayerNorm, two linear layers, and a layer scale of equal values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, WIDTH, 4, 4), nn.ModuleList(), nn.Linear(WIDTH, CLASSES)
        for _ in range(3):
            layers = (nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH), nn.LayerNorm(WIDTH))
            linear = (nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH))
            self.blocks.append(nn.ModuleList([*layers, *linear]))
        self.scales = nn.ParameterList([nn.Parameter(0.5 * torch.ones(WIDTH, 1, 1)) for _ in range(6)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for (depthwise, norm, wide, narrow), one, other in zip(
            self.blocks, self.scales[::2], self.scales[1::2], strict=True
        ):
            x = x + one * F.relu(depthwise(x))
            tokens = norm(x.permute(0, 2, 3, 1))
            x = x + other * F.relu(narrow(F.gelu(wide(tokens))).permute(0, 3, 1, 2))
        return self.head(x.mean((2, 3)))


class Slopes(nn.Module):
    """nn.PReLU with a slope for each channel, with one for all, and on vectors, where no map is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, WIDTH, 4, 4), nn.Conv2d(WIDTH, WIDTH, 3)
        self.each, self.all, self.on_vectors = nn.PReLU(WIDTH), nn.PReLU(), nn.PReLU(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        for slope in (self.each, self.all, self.on_vectors):
            nn.init.uniform_(slope.weight, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.all(self.second(self.each(self.first(x))))
        return self.head(self.on_vectors(x.mean((2, 3))))


class Vectors(nn.Module):
    """Learned vectors, added, multiplied and concatenated, one of which is a linear layer's bias, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.linear, self.head = (
            nn.Conv2d(3, WIDTH, 4, 4),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, CLASSES),
        )
        self.token, self.place = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 65, WIDTH))
        self.gain = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, x], 1) + self.place
        x = x + self.gain * F.relu(self.linear(x)) + self.linear.bias
        return self.head(x.mean(1))


class Repeated(nn.Module):
    """One convolution and one linear layer, each used several times on values of another size."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(3, WIDTH, 4, 4, bias=bias), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=bias)
        self.linear, self.head = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(WIDTH, CLASSES, bias=bias)
        for layer in (self.stem, self.again, self.linear, self.head):
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = F.relu(self.again(x)) + 2 * x
        x = x.mean((2, 3))
        return self.head(F.relu(self.linear(F.relu(self.linear(x)) + x)))


class Broken(nn.Module):
    """Falls into several delegates, because nothing takes the sums along the way; one convolution is in two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(3, WIDTH, 4, 4), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)
        self.slope, self.head = nn.PReLU(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.stem(x)).cumsum(1) / WIDTH
        return self.head(self.slope(self.again(x)).cumsum(2).mean((2, 3)))


class Tied(nn.Module):
    """One matrix as the weight of several kinds of layers, transposed, and an operand; names that copies would take."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 4, 4), nn.Linear(WIDTH, CLASSES)
        self.w, self.w_1 = nn.Parameter(torch.randn(WIDTH, WIDTH) / 7), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x, kernel = self.stem(x), self.w[:, :, None, None]
        x = F.relu(F.conv2d(x, kernel, self.w_1)) + F.conv_transpose2d(x, kernel, self.w_1)
        tokens = x.flatten(2).transpose(1, 2)[0]
        tokens = torch.addmm(self.w_1, F.relu(F.linear(tokens, self.w, self.w_1)), self.w) + self.w_1
        tokens = (tokens @ self.w.t()).softmax(-1) @ self.w * self.w[0]
        return self.head(tokens.mean(0, keepdim=True))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "scaled": Scaled,
    "slopes": Slopes,
    "vectors": Vectors,
    "repeated": Repeated,
    "without_biases": lambda: Repeated(bias=False),
    "broken": Broken,
    "tied": Tied,
}


def network(name: str) -> nn.Module:
    """One of NETWORKS with fixed weights."""
    torch.manual_seed(0)
    return NETWORKS[name]().eval()
