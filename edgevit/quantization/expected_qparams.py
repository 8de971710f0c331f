"""The expected quantization parameters of a file, of a checkpoint or a program, in the form that converters read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import qdq_operations
from edgevit.graph.edit import Graph, argument, is_call, node_of, only_user, source_of
from edgevit.quantization.annotation import is_move, origin
from edgevit.quantization.model_qparams import LayerQParams, ModelQParams, count_kinds, is_average
from edgevit.quantization.qparams import QParams, QuantizedWeight

if TYPE_CHECKING:
    from torch import Tensor, fx
    from torch.export import ExportedProgram

    from edgevit.quantization.quantized_model import Int8Network


def network_qparams(network: Int8Network) -> ModelQParams:
    """The numbers of the checkpoint's table, their places from the deployed graph. Names are the table's."""
    graph, annotation, table = Graph(network.deployed), network.annotation(), network.table
    activations = dict(table.activations)

    def layer(node: fx.Node) -> LayerQParams:
        result = node if node.name in activations else next(iter(node.users))  # behind a fused activation
        ends = activations[origin(source_of(node)).name], activations[result.name]
        return LayerQParams(node.name, table.weights[node.name], *ends)

    floats = [node for node in _weighted(graph.nodes) if node not in annotation.weighted]
    averages = [node for node in floats if _averages(graph.value(node.args[1]))]
    others = (node for node in annotation.kept_in_float if node not in floats)
    return ModelQParams(
        layers=tuple(map(layer, annotation.weighted)),
        activations=activations,
        float_layers=tuple(node.name for node in floats if node not in averages),
        averages=len(averages),
        kept_in_float=count_kinds(str(node.target) for node in others),
    )


def program_qparams(exported: ExportedProgram) -> ModelQParams:
    """The numbers of a program's quantize and dequantize nodes. Names are those of its nodes."""
    return _ProgramReader(exported).run()


class _ProgramReader:
    def __init__(self, exported: ExportedProgram) -> None:
        self._operations = qdq_operations()
        self._nodes = list(exported.graph.nodes)
        signature = exported.graph_signature
        names = (
            signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
        )
        values = exported.state_dict | exported.constants
        self._constants = {placeholder: values[name].detach() for placeholder, name in names.items()}

    def run(self) -> ModelQParams:
        layers, floats, averages = [], [], 0
        for node in _weighted(self._nodes):
            if is_call(node.args[1], self._operations.dequantize_per_channel.default):
                layers.append(self._layer(node))
            elif _averages(self._constants.get(node_of(node.args[1]).name)):
                averages += 1
            else:
                floats.append(node.name)
        stores = (node for node in self._nodes if is_call(node, self._operations.quantize_per_tensor.default))
        return ModelQParams(
            layers=tuple(layers),
            activations={source_of(n).name: _numbers(n) for n in stores if not is_move(source_of(n))},
            float_layers=tuple(floats),
            averages=averages,
            kept_in_float={},
        )

    def _layer(self, node: fx.Node) -> LayerQParams:
        stored = node_of(node.args[1]).all_input_nodes[:2]
        values, scales = (self._constants[constant.name].numpy() for constant in stored)
        source = source_of(node)
        reads = _numbers(source) if is_call(source, self._operations.dequantize_per_tensor.default) else None
        return LayerQParams(node.name, QuantizedWeight(values, scales), reads, self._written(node))

    def _written(self, node: fx.Node) -> QParams | None:
        import torch

        aten = torch.ops.aten
        user = only_user(node)
        if is_call(user, aten.relu.default, aten.relu6.default, aten.hardtanh.default):
            return self._written(user)
        return _numbers(user) if is_call(user, self._operations.quantize_per_tensor.default) else None


def _numbers(pair: fx.Node) -> QParams:
    """The quantization parameters of a quantize or dequantize node."""
    return QParams(argument(pair, 1), argument(pair, 2))


def _weighted(nodes: Any) -> Iterator[fx.Node]:
    import torch

    aten = torch.ops.aten
    return (node for node in nodes if is_call(node, aten.conv2d.default, aten.linear.default))


def _averages(weight: Tensor | None) -> bool:
    return weight is not None and is_average(weight.numpy())
