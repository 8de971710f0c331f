"""Per-channel scales and shifts: where they are folded, where they must stay, and that the output is the same."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgevit.deploy.passes.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from edgevit.deploy.passes.fold_affine import FOLD_AFFINE
from edgevit.deploy.passes.fold_constants import FOLD_CONSTANTS
from edgevit.graph.capture import example_input
from edgevit.graph.edit import Graph
from edgevit.models.van import Block
from tests.edgevit.deploy.rewriting import XNNPACK, Function, error, graph_of, ops, settled

_MAP = (2, 6, 8, 8)
_TOKENS = (2, 5, 6)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _channels(*shape: int) -> nn.Parameter:
    """Factors or terms away from 0."""
    return nn.Parameter(torch.rand(shape) + 0.5)


def _net(function, **parts) -> nn.Module:
    """A function of the parts, which are modules or parameters."""
    net = Function(function, **{name: part for name, part in parts.items() if isinstance(part, nn.Module)})
    for name, part in parts.items():
        if isinstance(part, nn.Parameter):
            net.register_parameter(name, part)
    return settled(net)


def _prepared(module: nn.Module, *shapes: tuple[int, ...]) -> Graph:
    """The graph as the pass finds it: views of parameters are constants, equal calls are one."""
    graph = graph_of(module, *shapes)
    for rewrite in (ELIMINATE_COMMON_SUBEXPRESSIONS, FOLD_CONSTANTS):
        rewrite.apply(graph, XNNPACK)
    return graph


def _folded(module: nn.Module, *shapes: tuple[int, ...]) -> tuple[dict[str, int], float]:
    """The operations left and the error after the pass."""
    graph = _prepared(module, *shapes)
    assert FOLD_AFFINE.apply(graph, XNNPACK)
    return dict(ops(graph)), error(graph, module, *shapes)


def _stays(module: nn.Module, *shapes: tuple[int, ...]) -> bool:
    graph = _prepared(module, *shapes)
    before = graph.module.code
    return FOLD_AFFINE.apply(graph, XNNPACK) == [] and graph.module.code == before


_BEHIND = {
    "convolution": nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)),
    "without bias": nn.Sequential(nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "strided, padded, dilated": nn.Sequential(nn.Conv2d(6, 4, 3, 2, 2, 2), nn.BatchNorm2d(4)),
    "asymmetric": nn.Sequential(nn.Conv2d(6, 4, (1, 3), (2, 1), (0, 1)), nn.BatchNorm2d(4)),
    "grouped": nn.Sequential(nn.Conv2d(6, 9, 3, groups=3), nn.BatchNorm2d(9)),
    "depthwise with multiplier": nn.Sequential(nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12)),
    "norm without affine": nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, affine=False)),
    "two norms": nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
}
_IN_FRONT = {
    "pointwise": nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)),
    "unpadded": nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, 2)),
    "grouped": nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3, groups=3, bias=False)),
    "depthwise with multiplier": nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 12, 3, groups=6)),
    "between": nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3, padding=1)),
}


@pytest.mark.parametrize("net", [*_BEHIND.values(), *_IN_FRONT.values()], ids=[*_BEHIND, *_IN_FRONT])
def test_norm_goes_into_the_convolution_beside_it(net):
    module = settled(net)
    left, difference = _folded(module, _MAP)
    assert set(left) == {"conv2d.default"}
    assert difference <= 1e-6


def test_norm_of_features_goes_into_the_linear_layer_on_either_side():
    module = settled(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)))
    left, difference = _folded(module, (3, 6))
    assert left == {"linear.default": 1}
    assert difference <= 1e-6


def test_weights_are_folded_in_float64():
    conv, norm = module = settled(nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)))
    graph = _prepared(module, _MAP)
    FOLD_AFFINE.apply(graph, XNNPACK)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    folded = dict(graph.module.named_parameters())
    assert len(folded) == 2
    for name, expected in (("weight", weight), ("bias", bias)):
        actual = next(tensor for key, tensor in folded.items() if name in key)
        torch.testing.assert_close(actual.double(), expected, rtol=2**-24, atol=1e-12)  # one float32 rounding


def test_weights_of_the_network_stay_as_they_are():
    module = settled(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _folded(module, _MAP)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_input_scale_goes_into_a_padded_convolution_but_a_shift_stays():
    scaled = _net(lambda net, x: net.conv(net.k * x), conv=nn.Conv2d(6, 4, 3, padding=1), k=_channels(6, 1, 1))
    left, difference = _folded(scaled, _MAP)
    assert left == {"conv2d.default": 1}
    assert difference <= 1e-6
    assert _stays(settled(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1))), _MAP)
    assert _stays(settled(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1, padding=1))), _MAP)


@pytest.mark.parametrize("order", [0, 1])
def test_convolution_with_padding_by_name_is_left_alone(order):
    pair = [nn.Conv2d(6, 6, 3, padding="same"), nn.BatchNorm2d(6)]
    assert _stays(settled(nn.Sequential(*pair[:: 1 if order else -1])), _MAP)


def test_shared_weights_stay():
    conv, first, second = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    net = _net(lambda net, x: net.a(net.conv(x)).relu() + net.b(net.conv(x.exp())).relu(), conv=conv, a=first, b=second)
    assert _stays(net, _MAP)


def test_convolution_with_a_second_reader_keeps_its_weights():
    module = _net(lambda net, x: (lambda y: y.relu() + net.norm(y))(net.conv(x)), conv=nn.Conv2d(6, 4, 1),
                  norm=nn.BatchNorm2d(4))  # fmt: skip
    assert _stays(module, _MAP)


def test_attention_shortcut_behind_a_norm_is_one_multiplication_and_one_addition():
    module = _net(
        lambda net, x: (lambda y: x + net.g * (y + net.b(F.gelu(net.a(y)))))(net.norm(x)),
        norm=nn.BatchNorm2d(6), a=nn.Conv2d(6, 6, 1), b=nn.Conv2d(6, 6, 1), g=_channels(6, 1, 1),
    )  # fmt: skip
    left, difference = _folded(module, _MAP)
    assert left == {"conv2d.default": 2, "gelu.default": 1, "mul.Tensor": 1, "add.Tensor": 1}
    assert difference <= 1e-6


def test_van_block_has_no_other_affine_operation_left():
    block = settled(Block(8, 2, 0.0))
    for scale in (block.layer_scale_1, block.layer_scale_2):
        nn.init.normal_(scale)
    left, difference = _folded(block, (1, 8, 12, 12))
    # One multiplication is the attention's gate, the other the shortcut of norm1.
    assert left == {"conv2d.default": 8, "gelu.default": 2, "mul.Tensor": 2, "add.Tensor": 2}
    assert difference <= 1e-6


def test_layer_scale_goes_into_its_branch():
    module = _net(lambda net, x: x + net.g * net.conv(x), conv=nn.Conv2d(6, 6, 3, padding=1), g=_channels(6, 1, 1))
    left, difference = _folded(module, _MAP)
    assert left == {"conv2d.default": 1, "add.Tensor": 1}
    assert difference <= 1e-6


def test_shift_of_a_sum_goes_into_one_of_its_convolutions_once():
    module = _net(
        lambda net, x: (net.a(x) + net.b(x)) * net.k + net.s,
        a=nn.Conv2d(6, 6, 1), b=nn.Conv2d(6, 6, 1), k=_channels(6, 1, 1), s=_channels(6, 1, 1),
    )  # fmt: skip
    left, difference = _folded(module, _MAP)
    assert left == {"conv2d.default": 2, "add.Tensor": 1}
    assert difference <= 1e-6


_AROUND_A_CONVOLUTION = {
    "times": lambda net, y: net.k * y * 3,
    "divided": lambda net, y: y / net.k / 3.0,
    "minus constant": lambda net, y: y - net.k - 1,
    "constant minus": lambda net, y: net.k - y,
    "negative": lambda net, y: -y,
    "twice": lambda net, y: y + y,
    "scalar tensor": lambda net, y: y * net.one,
}


@pytest.mark.parametrize("name", _AROUND_A_CONVOLUTION)
def test_arithmetic_with_constants_goes_into_the_convolution_in_front(name):
    function = _AROUND_A_CONVOLUTION[name]
    module = _net(
        lambda net, x: function(net, net.conv(x)), conv=nn.Conv2d(6, 4, 3), k=_channels(4, 1, 1), one=_channels()
    )
    left, difference = _folded(module, _MAP)
    assert left == {"conv2d.default": 1}
    assert difference <= 1e-6


@pytest.mark.parametrize("name", ["times", "divided", "negative", "twice", "scalar tensor"])
def test_scales_go_into_the_convolution_behind(name):
    function = _AROUND_A_CONVOLUTION[name]
    module = _net(lambda net, x: net.conv(function(net, x)), conv=nn.Conv2d(4, 6, 3, padding=1), k=_channels(4, 1, 1),
                  one=_channels())  # fmt: skip
    left, difference = _folded(module, (1, 4, 6, 6))
    assert left == {"conv2d.default": 1}
    assert difference <= 1e-6


def test_chain_without_a_convolution_is_one_multiplication_and_one_addition():
    module = _net(lambda net, x: -(((x * 2 + net.s) * net.k - 4) / 5), k=_channels(6, 1, 1), s=_channels(6, 1, 1))
    left, difference = _folded(module, _MAP)
    assert left == {"mul.Tensor": 1, "add.Tensor": 1}
    assert difference <= 1e-6


def test_last_axis_is_the_channels_of_a_linear_layer():
    module = _net(lambda net, x: net.k * net.fc(x * net.k) + net.k, fc=nn.Linear(6, 6), k=_channels(6))
    left, difference = _folded(module, _TOKENS)
    assert left == {"linear.default": 1}
    assert difference <= 1e-6


_NOT_PER_CHANNEL = {
    "rows": (8, 1),
    "columns": (8,),
    "samples": (2, 1, 1, 1),
    "pixels": (8, 8),
    "channels and columns": (6, 1, 8),
}


@pytest.mark.parametrize("name", _NOT_PER_CHANNEL)
def test_scale_that_varies_elsewhere_stays(name):
    scale = _channels(*_NOT_PER_CHANNEL[name])
    assert _stays(_net(lambda net, x: net.conv(x) * net.k, conv=nn.Conv2d(6, 6, 1), k=scale), _MAP)
    assert _stays(_net(lambda net, x: net.conv(x * net.k), conv=nn.Conv2d(6, 6, 1), k=scale), _MAP)


def test_scale_of_tokens_stays():
    assert _stays(_net(lambda net, x: net.fc(x) * net.k, fc=nn.Linear(6, 6), k=_channels(5, 1)), _TOKENS)


def test_operand_that_changes_the_shape_stays():
    pooled = _net(lambda net, x: net.conv(x) * net.k, conv=nn.Conv2d(6, 6, 8), k=_channels(6, 3, 3))
    assert _stays(pooled, (1, 6, 8, 8))
    raised = _net(lambda net, x: net.fc(x) + net.k, fc=nn.Linear(6, 6), k=_channels(1, 1, 6))
    assert _stays(raised, (5, 6))
    outer = _net(lambda net, x: net.fc(x) + net.fc(x).transpose(0, 1), fc=nn.Linear(6, 1))
    assert _stays(outer, (5, 6))


def test_alpha_stays():
    net = _net(lambda net, x: torch.add(net.conv(x), x, alpha=2), conv=nn.Conv2d(6, 6, 1))
    assert _stays(net, _MAP)
    assert _stays(_net(lambda net, x: torch.sub(net.conv(x), 3.0, alpha=2), conv=nn.Conv2d(6, 6, 1)), _MAP)


def test_constant_divided_by_a_result_stays():
    assert _stays(_net(lambda net, x: net.k / net.conv(x), conv=nn.Conv2d(6, 4, 1), k=_channels(4, 1, 1)), _MAP)


def test_integers_and_booleans_stay_what_they_are():
    assert _stays(_net(lambda net, x: x.argmax(1) * 2 * 3), _MAP)
    assert _stays(_net(lambda net, x: (x.argmax(1) + 1 + 2) // 2), _MAP)
    assert _stays(_net(lambda net, x: (x > 0) * 2.0 + x), _MAP)


def test_norm_with_computed_scale_stays():
    module = _net(
        lambda net, x: F.batch_norm(net.conv(x), net.mean, net.variance, weight=x.mean((0, 2, 3)), bias=net.mean),
        conv=nn.Conv2d(6, 6, 1), mean=_channels(6), variance=_channels(6),
    )  # fmt: skip
    assert _stays(module, _MAP)


def test_convolution_of_one_image_stays():
    module = _net(lambda net, x: net.conv(x[0]) * net.k, conv=nn.Conv2d(6, 5, 1), k=_channels(5, 1))
    assert _stays(module, (1, 6, 5, 5))  # (5, 5, 5) times one factor per row


def test_norm_over_another_axis_than_the_linear_layers_stays():
    assert _stays(settled(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))), (2, 5, 6))


def test_norm_that_is_needed_anyway_is_not_computed_twice():
    module = _net(lambda net, x: (lambda y: y + net.conv(y))(net.norm(x)), norm=nn.BatchNorm2d(6),
                  conv=nn.Conv2d(6, 6, 3, padding=1))  # fmt: skip
    assert _stays(module, _MAP)


def test_sum_with_two_readers_is_not_computed_twice():
    module = _net(lambda net, x, y: (lambda s: net.k * s + s.relu())(x + y), k=_channels(6, 1, 1))
    assert _stays(module, _MAP, _MAP)


def test_product_of_two_results_stays():
    assert _stays(_net(lambda net, x: net.a(x) * net.b(x), a=nn.Conv2d(6, 6, 1), b=nn.Conv2d(6, 6, 1)), _MAP)


_KINDS = (
    *("norm", "norm", "pointwise", "padded", "depthwise", "relu"),
    *("times", "plus", "minus", "over", "negative", "sum", "sum", "difference"),
)


class _Random(nn.Module):
    """Affine operations, convolutions and activations on maps of 4 channels, wired at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        dice = random.Random(seed)
        self.parts, self.wires = nn.ModuleList(), []
        self.factors = nn.ParameterList(_channels(*shape) for shape in ((4, 1, 1), (1, 4, 1, 1), (), (6,), (6, 1)))
        for position in range(dice.randint(3, 10)):
            kind = dice.choice(_KINDS)
            self.parts.append(self._part(kind))
            late = max(0, position - 2)  # mostly chains, some forks
            self.wires.append(
                (kind, dice.randint(late, position), dice.randint(0, position), dice.choice((0, 0, 1, 2, 3)))
            )

    def _part(self, kind: str) -> nn.Module:
        factories = {
            "norm": lambda: nn.BatchNorm2d(4),
            "pointwise": lambda: nn.Conv2d(4, 4, 1, groups=2),
            "padded": lambda: nn.Conv2d(4, 4, 3, padding=1),
            "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
            "relu": nn.ReLU,
        }
        return factories.get(kind, nn.Identity)()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for part, (kind, first, second, factor) in zip(self.parts, self.wires, strict=True):
            left, right, constant = part(values[first]), values[second], self.factors[factor]
            results = {
                "times": lambda a, _, k: a * k,
                "plus": lambda a, _, k: k + a,
                "minus": lambda a, _, k: k - a,
                "over": lambda a, _, k: a / k,
                "negative": lambda a, *_: -a,
                "sum": lambda a, b, _: a + b,
                "difference": lambda a, b, _: a - b,
            }
            values.append(results.get(kind, lambda a, *_: a)(left, right, constant))
        return values[-1] + 0.5 * values[len(values) // 2]


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_keep_their_output_and_grow_nowhere(seed):
    torch.manual_seed(seed)
    module, shape = settled(_Random(seed)), (1, 4, 6, 6)
    module.requires_grad_(False)
    x = example_input(shape, seed=9)
    before, graph = module(x), _prepared(module, shape)
    cost = sum(ops(graph).values())
    FOLD_AFFINE.apply(graph, XNNPACK)
    after = graph.module(x)
    # An output may be the small difference of large numbers: errors count against the numbers on the way.
    largest = max(float(value.abs().max()) for value in _intermediates(graph, x))
    assert float((after - before).abs().max()) <= 2e-6 * largest
    assert sum(ops(graph).values()) <= cost
    assert torch.equal(module(x), before)


def _intermediates(graph: Graph, x: torch.Tensor) -> list[torch.Tensor]:
    """Every result of a graph, each checked to have the shape and type that its node says."""
    results = []

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if isinstance(result, torch.Tensor) and node.op != "output":
                assert (result.shape, result.dtype) == (node.meta["val"].shape, node.meta["val"].dtype), node
                results.append(result)
            return result

    with torch.no_grad():
        Recorder(graph.module).run(x)
    return results
