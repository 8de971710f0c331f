"""Counts a network's parameters and multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import flop_counter, tree_leaves
from edgevit.graph.capture import example_input

if TYPE_CHECKING:
    from torch import nn


def count_params(module: nn.Module) -> int:
    """Trainable values; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates for one input, in eval mode: convolutions and matrix products only.

    What does not depend on the input (PerViT's position attention) is no work for it and does not count. Patches that
    `unfold` gathers for kernels of each pixel's own do: each of their numbers meets one weight. A module on the meta
    device is counted there.
    """
    return count_macs_by_module(module, input_shape)[""]


def count_macs_by_module(module: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """The same for each submodule that has any, by its path; "" is the whole."""
    import torch
    from torch.utils.weak import WeakTensorKeyDictionary

    def reads_input(arguments: Any, result: Any) -> bool:
        """Whether a call reads the input, or what was computed from it; its result then is such a thing too."""
        if not any(tensor in reached for tensor in _tensors(arguments)):
            return False
        for tensor in _tensors(result):
            reached[tensor] = True
        return True

    module.eval()
    device = next((parameter.device for parameter in module.parameters()), None)
    image = example_input(input_shape).to(device)
    reached = WeakTensorKeyDictionary({image: True})
    # Not under no_grad: there the counter trips over views of parameters (tokens of Mobile-Former).
    with flop_counter(reads_input, {torch.ops.aten.im2col: _unfold_flops}) as counter:
        module(image)
    root = type(module).__name__
    counts = {name: sum(by_op.values()) // 2 for name, by_op in counter.get_flop_counts().items()}
    paths = {name.removeprefix(root).removeprefix("."): count for name, count in counts.items() if name != "Global"}
    return {"": counts.get("Global", 0)} | {path: count for path, count in paths.items() if path}


def _tensors(tree: Any) -> list[Any]:
    import torch

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _unfold_flops(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(out_shape)
