"""Constants: what is computed once, and what stays an operation."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.deploy.passes.fold_constants import FOLD_CONSTANTS
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops
from tests.families import build

_TOKENS = (2, 3, 4)


class _Tokens(nn.Module):
    """Learned tokens through a linear layer and a norm, beside those of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(3, 4))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(x) + self.second(self.first(self.tokens).unsqueeze(0).softmax(-1))


def test_everything_without_the_input_is_computed_once():
    module = _Tokens().eval()
    graph = graph_of(module, _TOKENS)
    assert len(FOLD_CONSTANTS.apply(graph, XNNPACK)) == 4
    assert ops(graph) == {"linear.default": 1, "add.Tensor": 1}
    assert {name.split(".")[0] for name, _ in graph.module.named_parameters()} >= {"second"}
    assert not any(name.startswith("first") for name, _ in graph.module.named_parameters())  # its weights are gone
    assert error(graph, module, _TOKENS) <= 1e-6


def test_nothing_depends_on_the_input_alone():
    assert changes_nothing(FOLD_CONSTANTS, nn.Sequential(nn.Linear(4, 4), nn.ReLU()), _TOKENS)


class _Constant(nn.Module):
    """One function of a parameter, added to the input."""

    def __init__(self, function, *shape: int) -> None:
        super().__init__()
        self.function, self.value = function, nn.Parameter(torch.rand(shape) + 1)

    def forward(self, x):
        return x + self.function(self.value)


def test_result_much_larger_than_its_operands_is_not_stored():
    assert changes_nothing(FOLD_CONSTANTS, _Constant(lambda v: v.repeat(1, 1, 2), 3, 1).eval(), (1, 3, 2)) is False
    assert changes_nothing(FOLD_CONSTANTS, _Constant(lambda v: v.repeat(1, 1, 5), 3, 1).eval(), (1, 3, 5))


def test_result_of_a_product_or_a_gather_is_stored_whatever_its_size():
    outer = _Constant(lambda v: v @ v.mT, 40, 1).eval()  # 1600 numbers from 40
    graph = graph_of(outer, (1, 40, 40))
    FOLD_CONSTANTS.apply(graph, XNNPACK)
    assert ops(graph) == {"add.Tensor": 1}
    assert error(graph, outer, (1, 40, 40)) <= 1e-6


def test_position_attention_of_pervit_becomes_a_constant_of_each_block():
    module = build("pervit").eval()
    graph = graph_of(module, (1, 3, 32, 32))
    FOLD_CONSTANTS.apply(graph, XNNPACK)
    counts = ops(graph)
    assert (counts["group_norm.default"], counts["log_sigmoid.default"]) == (0, 0)
    assert counts["conv2d.default"] == 4 + 1 + 4  # the stem's and each block's position encoding
    assert error(graph, module, (1, 3, 32, 32)) <= 1e-6


def test_bias_and_mask_of_window_attention_become_one_constant():
    module = build("local_vit", 64).eval()
    graph = graph_of(module, (1, 3, 64, 64))
    FOLD_CONSTANTS.apply(graph, XNNPACK)
    assert ops(graph)["index.Tensor"] == 0
    assert error(graph, module, (1, 3, 64, 64)) <= 1e-6


def test_random_numbers_are_drawn_anew():
    assert changes_nothing(FOLD_CONSTANTS, _Constant(torch.rand_like, 4).eval(), _TOKENS)


def test_integers_are_not_made_floats():
    module = Function(lambda net, x: x.gather(-1, net.indices), indices=nn.Module())
    del module.indices
    module.register_buffer("indices", torch.zeros(2, 3, 1, dtype=torch.int64))
    assert changes_nothing(FOLD_CONSTANTS, module, _TOKENS)
    shifted = _Constant(lambda v: v.argmax(-1), 3, 4).eval()
    assert changes_nothing(FOLD_CONSTANTS, shifted, (2, 3))
