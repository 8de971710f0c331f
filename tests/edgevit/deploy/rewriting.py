"""What the tests of the deploy passes share: a captured network under one pass, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgevit.deploy.cost_model import Costs, read_costs
from edgevit.deploy.pass_manager import Pass
from edgevit.deploy.passes.remove_noops import REMOVE_NOOPS
from edgevit.graph.capture import capture, example_input, functional
from edgevit.graph.edit import Graph

XNNPACK = read_costs("xnnpack")


class Function(nn.Module):
    """A function of tensors as a network; its other submodules are there for it to use."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def graph_of(module: nn.Module, *shapes: tuple[int, ...]) -> Graph:
    """The functional graph of a network, its views canonical as in front of every other pass."""
    graph = Graph(functional(capture(module.eval(), tuple(example_input(shape) for shape in shapes), "net")))
    REMOVE_NOOPS.apply(graph, XNNPACK)
    return graph


def ops(graph: Graph) -> Counter[str]:
    """How often each operation occurs: "permute.default" and the like."""
    calls = (node for node in graph.module.graph.nodes if node.op == "call_function")
    return Counter(str(node.target).removeprefix("aten.") for node in calls)


def error(graph: Graph, module: nn.Module, *shapes: tuple[int, ...]) -> float:
    """max|a-b| / max|b| of the graph against the network it was captured from, on inputs that neither has seen."""
    inputs = tuple(example_input(shape, seed=7) for shape in shapes)
    with torch.no_grad():
        actual, expected = graph.module(*inputs), module(*inputs)
    return float((actual - expected).abs().max() / expected.abs().max())


def changes_nothing(rewrite: Pass, module: nn.Module, *shapes: tuple[int, ...], costs: Costs = XNNPACK) -> bool:
    """Whether a pass reports no place and leaves the graph's code as it was."""
    graph = graph_of(module, *shapes)
    before = graph.module.code
    return rewrite.apply(graph, costs) == [] and graph.module.code == before


def settled(module: nn.Module) -> nn.Module:
    """The network in eval mode, its norms with statistics, scales and shifts that are not 0 and 1."""
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.data.uniform_(0.5, 1.5)
                norm.bias.data.normal_()
    return module.eval()
