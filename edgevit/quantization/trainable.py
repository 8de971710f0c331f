"""The int8 network as one that trains: NNCF quantizers at its grids, any batch size."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from edgevit.deploy.graph import Graph, is_call, shape
from edgevit.errors import QuantizationError
from edgevit.quantization.network import Int8Network
from edgevit.quantization.placement import place_grids
from edgevit.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from edgevit.quantization.scheme import ScaleTable

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

_TOLERANCE = 1e-5


def trainable(network: Int8Network) -> fx.GraphModule:
    """A copy of the deployed graph with a quantizer at every grid.

    It maps images (N, 3, S, S) to logits like the network. Weights and biases of the layers with grids train, and so
    do all ranges; norms and what else stays in float keep their values.
    Raises QuantizationError for a network that mixes the pictures of a batch.
    """
    module = any_batch(network.deployed)
    graph = Graph(module)
    placement = place_grids(graph)
    module.requires_grad_(False)
    for node in placement.weighted:
        for constant in node.args[1:3]:
            if constant is not None:
                graph.parameter(constant).requires_grad_(True)
        weight = graph.parameter(node.args[1])
        quantizer = WeightQuantizer(weight, network.table.weights[node.name])
        _insert(module, node.args[1], [node], quantizer)
    for node in placement.grids:
        _insert(module, node, list(node.users), ActivationQuantizer(network.table.activations[node.name]))
    module.graph.lint()
    module.recompile()
    return module


def finished(trained: fx.GraphModule, network: Int8Network) -> Int8Network:
    """The int8 network that `trainable(network)` has become."""
    import torch

    deployed = copy.deepcopy(network.deployed)
    graph, source = Graph(deployed), Graph(trained)
    placement = place_grids(graph)
    own = {node.target: node for node in trained.graph.nodes if node.op == "get_attr"}
    weights = {}
    for node in placement.weighted:
        for constant in node.args[1:3]:
            if constant is not None:
                with torch.no_grad():
                    graph.parameter(constant).copy_(source.parameter(own[constant.target]))
        weights[node.name] = _quantizer(trained, node.args[1].name).grid(graph.parameter(node.args[1]))
        with torch.no_grad():
            graph.parameter(node.args[1]).copy_(weights[node.name].real())
    grids = {node.name: _quantizer(trained, node.name).grid() for node in placement.grids}
    return Int8Network(deployed, ScaleTable(grids, weights), network.steps)


def any_batch(deployed: fx.GraphModule) -> fx.GraphModule:
    """A copy of a graph for one picture that takes several: the leading axis of every reshape follows its input.

    Raises QuantizationError if a batch of two does not give what its pictures give alone.
    """
    import torch

    module = copy.deepcopy(deployed)
    aten = torch.ops.aten
    for node in module.graph.nodes:
        if is_call(node, aten.reshape.default, aten.view.default):
            node.args = (node.args[0], [-1, *node.args[1][1:]])
        elif is_call(node, aten.expand.default):
            node.args = (node.args[0], [-1, *node.args[1][1:]], *node.args[2:])
    module.recompile()
    (picture,) = (node for node in module.graph.nodes if node.op == "placeholder")
    pair = torch.randn(2, *shape(picture)[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            together = module(pair)
        except RuntimeError as error:
            raise _mixes(str(error).splitlines()[0]) from error
        alone = torch.cat([deployed(pair[:1]), deployed(pair[1:])])
    if together.shape != alone.shape or _differ(together, alone):
        raise _mixes("a batch of two gives other answers than its pictures alone")
    return module


def _differ(one: Tensor, other: Tensor) -> bool:
    return not float((one - other).abs().max() / other.abs().max().clamp_min(1e-30)) <= _TOLERANCE


def _mixes(reason: str) -> QuantizationError:
    return QuantizationError(
        f"the network does not train in batches: {reason}",
        hint="keep the batch as the first axis of every tensor; `edgevit quantize` needs no batches",
    )


def _insert(module: fx.GraphModule, node: fx.Node, readers: list[fx.Node], quantizer: nn.Module) -> None:
    """Let `readers` read what the quantizer makes of the node's result."""
    name = f"quantizer_{node.name}"
    module.add_submodule(name, quantizer)
    with module.graph.inserting_after(node):
        call = module.graph.call_module(name, (node,))
    for reader in readers:
        reader.replace_input_with(node, call)


def _quantizer(module: fx.GraphModule, name: str) -> nn.Module:
    return module.get_submodule(f"quantizer_{name}")
