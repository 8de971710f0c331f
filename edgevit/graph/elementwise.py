"""Elementwise operations: the place of an element in its tensor does not matter to them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

_NAMES = (
    *("abs", "elu", "exp", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "neg", "relu", "relu6"),
    *("rsqrt", "sigmoid", "silu", "sqrt", "tanh", "clamp", "maximum", "minimum"),
)


@cache
def _targets() -> frozenset[Any]:
    import torch

    aten = torch.ops.aten
    plain = {getattr(aten, name).default for name in _NAMES}
    return frozenset(plain | {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.max.other})


def operands(node: fx.Node) -> list[fx.Node] | None:
    """The tensors that an elementwise operation reads, each once; None for any other node."""
    return node.all_input_nodes if node.op == "call_function" and node.target in _targets() else None
