"""LayerNorm from products: on tokens, on maps, and where it must stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import reference
from converters.tflite.converter import CONVERTER
from edgevit import models
from edgevit.deploy.cost_model import read_costs
from edgevit.deploy.pass_manager import deploy
from edgevit.deploy.passes.decompose_layer_norm import DECOMPOSE_LAYER_NORM
from edgevit.deploy.passes.simplify_views import SIMPLIFY_VIEWS
from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from tests.edgevit.deploy.rewriting import XNNPACK, Function, changes_nothing, error, graph_of, ops

_MAP = (2, 6, 4, 4)
_TOKENS = (2, 5, 6)


def _norm(eps: float = 1e-5, **options: bool) -> nn.LayerNorm:
    norm = nn.LayerNorm(6, eps=eps, **options)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


@pytest.mark.parametrize("shape", [(5, 6), _TOKENS, (2, 3, 5, 6)])
@pytest.mark.parametrize(
    ("options", "multiplications"), [({}, 3), ({"bias": False}, 3), ({"elementwise_affine": False}, 2)]
)
def test_norm_of_tokens_becomes_linear_means(shape, options, multiplications):
    module = nn.Sequential(_norm(**options))
    graph = graph_of(module, shape)
    assert DECOMPOSE_LAYER_NORM.apply(graph, XNNPACK) == ["0"]
    counts = ops(graph)
    assert (counts["layer_norm.default"], counts["linear.default"], counts["rsqrt.default"]) == (0, 2, 1)
    assert counts["mul.Tensor"] == multiplications
    assert error(graph, module, shape) <= 1e-6


def test_eps_counts():
    module = nn.Sequential(_norm(eps=0.5))
    graph = graph_of(module, _TOKENS)
    DECOMPOSE_LAYER_NORM.apply(graph, XNNPACK)
    assert error(graph, module, _TOKENS) <= 1e-6


def _through_tokens(net, x):
    return net.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def _channels_last(net, x):
    return net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _through_flat_pixels(net, x):
    return net.norm(x.permute(0, 2, 3, 1).reshape(-1, 6)).reshape(2, 4, 4, 6).permute(0, 3, 1, 2)


@pytest.mark.parametrize("function", [_through_tokens, _channels_last, _through_flat_pixels])
def test_norm_of_a_map_is_taken_on_the_map(function):
    module = Function(function, norm=_norm())
    graph = graph_of(module, _MAP)
    for rewrite in (DECOMPOSE_LAYER_NORM, SIMPLIFY_VIEWS):
        assert len(rewrite.apply(graph, XNNPACK)) > 0
    expected = {"conv2d.default": 2, "sub.Tensor": 1, "mul.Tensor": 3, "rsqrt.default": 1, "add.Tensor": 1}
    assert ops(graph) == expected
    assert error(graph, module, _MAP) <= 1e-6


def test_square_map_that_is_normed_over_its_columns_is_no_map_norm():
    module = Function(lambda net, x: net.norm(x.transpose(2, 3)).transpose(2, 3), norm=_norm())
    graph = graph_of(module, (2, 4, 6, 6))
    DECOMPOSE_LAYER_NORM.apply(graph, XNNPACK)
    SIMPLIFY_VIEWS.apply(graph, XNNPACK)
    assert (ops(graph)["linear.default"], ops(graph)["conv2d.default"]) == (2, 0)
    assert error(graph, module, (2, 4, 6, 6)) <= 1e-6


def test_tokens_that_others_read_are_normed_as_tokens():
    def function(net, x):
        tokens = x.flatten(2).transpose(1, 2)
        return tokens + net.norm(tokens)

    module = Function(function, norm=_norm())
    graph = graph_of(module, _MAP)
    DECOMPOSE_LAYER_NORM.apply(graph, XNNPACK)
    assert (ops(graph)["linear.default"], ops(graph)["conv2d.default"]) == (2, 0)
    assert error(graph, module, _MAP) <= 1e-6


class _ComputedWeight(nn.Module):
    def forward(self, x):
        return nn.functional.layer_norm(x, (6,), x[0, 0].exp())


@pytest.mark.parametrize("module", [nn.LayerNorm((5, 6)), nn.LayerNorm((2, 5, 6)), _ComputedWeight()])
def test_norm_over_more_than_channels_stays(module):
    assert changes_nothing(DECOMPOSE_LAYER_NORM, module, _TOKENS)


def test_norm_stays_where_the_runtime_takes_it_whole():
    assert changes_nothing(DECOMPOSE_LAYER_NORM, _norm(), _TOKENS, costs=read_costs("coreml"))


@pytest.fixture(scope="module")
def stock_van():
    """VAN-B0 in its official form, and the same deployed."""
    torch.manual_seed(0)
    module = reference.build("van_b0")
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.LayerNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    graph_module, _ = deploy(module, models.get_spec("van_b0"))
    return module, graph_module


@pytest.mark.slow
def test_stock_van_deploys_without_norms_or_transposes(stock_van):
    module, graph_module = stock_van
    targets = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"}
    assert not {"aten.layer_norm.default", "aten.permute.default", "aten.transpose.int"} & targets
    x = example_input((1, 3, 224, 224), seed=3)
    with torch.no_grad():
        actual, expected = graph_module(x), module(x)
    assert float((actual - expected).abs().max() / expected.abs().max()) <= 1e-6


@pytest.mark.slow
def test_stock_van_is_one_region_of_a_tflite_file(stock_van, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    program = export(stock_van[1], models.get_spec("van_b0"))
    lowering = CONVERTER.convert(program, CONVERTER.Options(), tmp_path).lowering
    assert (lowering.transposes, lowering.regions, lowering.outside) == (0, 1, {})
