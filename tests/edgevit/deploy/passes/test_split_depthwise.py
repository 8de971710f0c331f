"""Depthwise kernels split and replicated: each tap once, the same output, and what is left whole."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
import torch
from torch import nn

from edgevit.deploy.cost_model import Costs, read_costs
from edgevit.deploy.passes.split_depthwise import REPLICATE_DEPTHWISE, SPLIT_DEPTHWISE, cheapest_split
from tests.edgevit.deploy.rewriting import XNNPACK, changes_nothing, error, graph_of, ops

_COREML = read_costs("coreml")
# Round numbers that splits can be checked against by hand: up to 25 taps are as good as free.
_STEEP = Costs(((4, 1.0), (9, 2.0), (25, 5.0)), 10.0, 1.0, 1.0, 1.0, layer_norm=False, softmax_any_axis=False)


def _depthwise(channels: int, kernel: int | tuple[int, int], **options: object) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, channels, kernel, groups=channels, **options))


def _kernels(height: int, width: int, costs: Costs) -> list[tuple[int, int]]:
    return sorted((rows.count, columns.count) for rows, columns in cheapest_split(height, width, costs))


@pytest.mark.parametrize("costs", [XNNPACK, _STEEP, _COREML], ids=["xnnpack", "steep", "coreml"])
@pytest.mark.parametrize("height", range(1, 16))
def test_pieces_hold_each_tap_once_and_cost_less(height, costs):
    for width in (height, 1, 4, 15):
        pieces = cheapest_split(height, width, costs)
        if not pieces:
            continue
        taps = Counter(
            (row, column)
            for rows, columns in pieces
            for row in range(height)[rows.taps]
            for column in range(width)[columns.taps]
        )
        assert taps == {(row, column): 1 for row in range(height) for column in range(width)}
        assert len(pieces) > 1
        # Symmetric around the centre: what a piece leaves out before it, it leaves out behind it.
        for line, side in [(rows, height) for rows, _ in pieces] + [(columns, width) for _, columns in pieces]:
            assert 2 * line.start + line.step * (line.count - 1) == side - 1
        parts = sum(costs.depthwise_element(rows.count * columns.count) for rows, columns in pieces)
        assert parts + costs.elementwise * (len(pieces) - 1) < costs.depthwise_element(height * width)


def test_split_is_the_cheapest_by_the_classes_and_the_additions():
    assert _kernels(7, 7, _STEEP) == [(3, 7), (4, 2), (4, 5)]  # 5 + 2 + 5 and two additions
    assert _kernels(4, 4, _STEEP) == []  # as much as two of 8 taps and an addition
    assert _kernels(4, 4, dataclasses.replace(_STEEP, elementwise=0.5)) == [(2, 4), (2, 4)]


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_kernels_of_a_fast_class_are_best_whole(side):
    assert cheapest_split(side, side, XNNPACK) == ()


def test_nothing_is_split_where_costs_are_equal():
    assert all(cheapest_split(side, side, _COREML) == () for side in range(1, 16))


def _random_case(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    dice = random.Random(seed)
    kernel, stride, dilation = (
        (dice.choice(sides), dice.choice(sides)) for sides in ((6, 7, 9, 11), (1, 2, 3), (1, 2))
    )
    padding = tuple(d * (k - 1) // 2 + dice.randint(0, 2) for k, d in zip(kernel, dilation, strict=True))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": dice.random() < 0.5}
    return _depthwise(3, kernel, **options), (2, 3, dice.randint(9, 16), dice.randint(9, 16))


@pytest.mark.parametrize("seed", range(20))
def test_split_convolution_gives_the_same_output(seed):
    module, shape = _random_case(seed)
    graph = graph_of(module, shape)
    assert SPLIT_DEPTHWISE.apply(graph, XNNPACK) == ["0"]
    left = ops(graph)
    assert set(left) == {"conv2d.default", "add.Tensor"}
    assert left["add.Tensor"] == left["conv2d.default"] - 1 > 0
    assert error(graph, module, shape) <= 1e-6


def test_weights_are_distributed_and_the_bias_is_added_once():
    module = _depthwise(4, 7, padding=3)
    graph = graph_of(module, (1, 4, 9, 9))
    SPLIT_DEPTHWISE.apply(graph, XNNPACK)
    kernels = [tensor for name, tensor in graph.module.named_parameters() if tensor.dim() == 4]
    together = torch.cat([kernel.flatten(1) for kernel in kernels], 1)
    assert torch.equal(together.sort(1).values, module[0].weight.flatten(1).sort(1).values)
    convolutions = graph.module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    assert [conv.args[2] is not None for conv in convolutions] == [True, *[False] * (len(kernels) - 1)]


def test_one_channel_is_a_depthwise_convolution_too():
    module = nn.Sequential(nn.Conv2d(1, 1, 7, padding=3))
    graph = graph_of(module, (1, 1, 9, 9))
    assert SPLIT_DEPTHWISE.apply(graph, XNNPACK) == ["0"]
    assert error(graph, module, (1, 1, 9, 9)) <= 1e-6


@pytest.mark.parametrize(
    "module",
    [
        _depthwise(4, 5, padding=2),
        _depthwise(4, 17, padding=8),
        _depthwise(4, (3, 17), padding=(1, 8)),
        _depthwise(4, 7),
        _depthwise(4, 7, padding=(3, 0)),
        _depthwise(4, 7, padding="same"),
        nn.Sequential(nn.Conv2d(4, 4, 7, padding=3, groups=2)),
        nn.Sequential(nn.Conv2d(4, 8, 7, padding=3, groups=4)),
        nn.Sequential(nn.Conv2d(4, 4, 7, padding=3)),
    ],
    ids=["fast", "wide", "wide one way", "no padding", "padded one way", "same", "grouped", "multiplier", "dense"],
)
def test_other_kernels_stay_whole(module):
    assert changes_nothing(SPLIT_DEPTHWISE, module, (1, 4, 19, 19))


def test_no_kernel_is_split_for_coreml():
    assert changes_nothing(SPLIT_DEPTHWISE, _depthwise(4, 7, padding=3), (1, 4, 9, 9), costs=_COREML)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": 1, "bias": False}, {"dilation": 2}])
@pytest.mark.parametrize("multiplier", [2, 3])
def test_replicated_input_leaves_one_output_per_channel(options, multiplier):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(6, 6 * multiplier, 3, groups=6, **options))
    graph = graph_of(module, (2, 6, 8, 8))
    assert REPLICATE_DEPTHWISE.apply(graph, XNNPACK) == ["0"]
    copies, conv = graph.module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    assert conv.args[6] == 6 * multiplier
    weight = graph.value(copies.args[1])
    assert (weight.sum(1) == 1).all()
    assert (weight.sum(0) == multiplier).all()
    assert error(graph, module, (2, 6, 8, 8)) <= 1e-6


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ((6, 6), {"groups": 6}),
        ((1, 6), {}),
        ((6, 12), {"groups": 3}),
        ((600, 1200), {"groups": 600}),  # as many multiplications to replicate as to compute
    ],
    ids=["one output", "one channel", "grouped", "too many channels"],
)
def test_other_convolutions_are_not_replicated(channels, options):
    module = nn.Sequential(nn.Conv2d(*channels, 1 if channels[0] == 600 else 3, **options))
    assert changes_nothing(REPLICATE_DEPTHWISE, module, (1, channels[0], 6, 6))


def test_nothing_is_replicated_for_coreml():
    module = nn.Sequential(nn.Conv2d(6, 12, 3, groups=6))
    assert changes_nothing(REPLICATE_DEPTHWISE, module, (1, 6, 6, 6), costs=_COREML)
