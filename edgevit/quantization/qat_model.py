"""The int8 network as one that trains: an NNCF quantizer per quantized tensor, any batch size."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from edgevit.graph.dynamic_batch import QDQ_OPS, any_batch
from edgevit.graph.edit import Graph, node_of
from edgevit.quantization.annotation import annotate
from edgevit.quantization.fake_quantize import ActivationQuantizer, WeightQuantizer
from edgevit.quantization.integer_arithmetic import in_integers, integer_sites
from edgevit.quantization.qparams import QParamsTable
from edgevit.quantization.quantized_model import Int8Network

if TYPE_CHECKING:
    from torch import fx, nn


def trainable(network: Int8Network) -> fx.GraphModule:
    """A copy of the deployed graph with a quantizer at every quantized tensor, in integer arithmetic.

    Its logits of images (N, 3, S, S) are bit-exact with the network's. Weights and biases of the int8 layers train, and
    so do all ranges but the input's, which preprocessing sets; norms and everything else in float keep their values.
    Raises QuantizationError for a graph that cannot take a batch.
    """
    module = simulated(network)
    annotation = network.annotation()
    activations = {node.name: _activation(module, node).scale_now for node in annotation.quantized}
    weights = {node.name: _weight(module, node).scale_now for node in annotation.weighted}
    return in_integers(module, integer_sites(network.deployed, annotation), activations, weights)


def simulated(network: Int8Network) -> fx.GraphModule:
    """The same with float arithmetic between the quantizers: equal up to rounding, and some can be taken out."""
    module = copy.deepcopy(network.deployed)
    graph = Graph(module)
    annotation = annotate(graph, network.table.float_fallback)
    module.requires_grad_(False)
    for node in annotation.weighted:
        for constant in node.args[1:3]:
            if constant is not None:
                graph.parameter(constant).requires_grad_(True)
        weight = graph.parameter(node.args[1])
        quantizer = WeightQuantizer(weight, network.table.weights[node.name])
        _insert(module, node_of(node.args[1]), [node], quantizer)
    shared = {name: min(group) for group in annotation.shared for name in group}
    quantizers: dict[str, ActivationQuantizer] = {}
    for node in annotation.quantized:
        owner = shared.get(node.name, node.name)
        if owner not in quantizers:
            quantizers[owner] = ActivationQuantizer(network.table.activations[owner])
            if node.op == "placeholder":
                quantizers[owner].disable_gradients()
        _insert(module, node, list(node.users), quantizers[owner])
    module.recompile()
    any_batch(network.deployed)  # an exact check of the graph, without quantizers that hide errors in rounding
    return any_batch(module, QDQ_OPS)


def finished(trained: fx.GraphModule, network: Int8Network) -> Int8Network:
    """The int8 network that `trainable(network)` has become."""
    import torch

    deployed = copy.deepcopy(network.deployed)
    graph, source = Graph(deployed), Graph(trained)
    annotation = annotate(graph, network.table.float_fallback)
    own = {node.target: node for node in trained.graph.nodes if node.op == "get_attr"}
    weights = {}
    for node in annotation.weighted:
        for constant in node.args[1:3]:
            if constant is not None:
                with torch.no_grad():
                    graph.parameter(constant).copy_(source.parameter(own[node_of(constant).target]))
        weights[node.name] = _weight(trained, node).quantized(graph.parameter(node.args[1]))
        with torch.no_grad():
            graph.parameter(node.args[1]).copy_(torch.from_numpy(weights[node.name].dequantize()))
    qparams = {node.name: _activation(trained, node).qparams() for node in annotation.quantized}
    return Int8Network.settled(deployed, QParamsTable(qparams, weights, network.table.float_fallback), network.passes)


def quantizer_name(node: fx.Node) -> str:
    """The submodule of a trainable network that quantizes a node's result, or a weight."""
    return f"quantizer_{node.name}"


def _insert(module: fx.GraphModule, node: fx.Node, users: list[fx.Node], quantizer: nn.Module) -> None:
    """Let `users` read the quantized result of the node."""
    name = quantizer_name(node)
    module.add_submodule(name, quantizer)
    with module.graph.inserting_after(node):
        call = module.graph.call_module(name, (node,))
    call.meta["val"] = node.meta["val"]
    for user in users:
        user.replace_input_with(node, call)


def _activation(module: fx.GraphModule, node: fx.Node) -> ActivationQuantizer:
    """The quantizer of a node's result."""
    found = module.get_submodule(quantizer_name(node))
    assert isinstance(found, ActivationQuantizer)  # of the same annotation
    return found


def _weight(module: fx.GraphModule, node: fx.Node) -> WeightQuantizer:
    """The quantizer of a node's weight."""
    found = module.get_submodule(quantizer_name(node_of(node.args[1])))
    assert isinstance(found, WeightQuantizer)  # of the same annotation
    return found
