"""Counts a network's parameters and multiply-accumulates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.capture import example_input

if TYPE_CHECKING:
    from torch import nn


def count_params(module: nn.Module) -> int:
    """Trainable values; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass in eval mode: convolutions and matrix products only."""
    from torch.utils.flop_counter import FlopCounterMode

    module.eval()
    # Not under no_grad: there the counter trips over views of parameters (tokens of Mobile-Former).
    with FlopCounterMode(display=False) as counter:
        module(example_input(input_shape))
    return counter.get_total_flops() // 2
