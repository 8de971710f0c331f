"""The grids that a file must hold, in the form in which converters read them back: of a checkpoint, of a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import qdq_operations
from edgevit.graph.edit import Graph, is_call, only_user
from edgevit.quantization.annotation import is_move, origin
from edgevit.quantization.model_qparams import LayerQParams, ModelQParams, count_kinds, is_average
from edgevit.quantization.qparams import QParams, QuantizedWeight

if TYPE_CHECKING:
    from torch import Tensor, fx
    from torch.export import ExportedProgram

    from edgevit.quantization.quantized_model import Int8Network


def network_qparams(network: Int8Network) -> ModelQParams:
    """Every number from the checkpoint's table; where it belongs from the deployed graph. Names are the table's."""
    graph, annotation, table = Graph(network.deployed), network.annotation(), network.table
    activations = dict(table.activations)

    def layer(node: fx.Node) -> LayerQParams:
        result = node if node.name in activations else only_user(node)  # behind a fused activation
        ends = activations[origin(node.args[0]).name], activations[result.name]
        return LayerQParams(node.name, table.weights[node.name], *ends)

    floats = [node for node in _weighted(graph.nodes) if node not in annotation.weighted]
    averages = [node for node in floats if _averages(graph.value(node.args[1]))]
    others = (node for node in annotation.floating if node not in floats)
    return ModelQParams(
        layers=tuple(map(layer, annotation.weighted)),
        activations=activations,
        float_layers=tuple(node.name for node in floats if node not in averages),
        averages=len(averages),
        floating=count_kinds(str(node.target) for node in others),
    )


def program_qparams(exported: ExportedProgram) -> ModelQParams:
    """What the quantize and dequantize nodes of a program say. Names are those of its nodes."""
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
            elif _averages(self._constants.get(node.args[1].name)):
                averages += 1
            else:
                floats.append(node.name)
        stores = (node for node in self._nodes if is_call(node, self._operations.quantize_per_tensor.default))
        return ModelQParams(
            layers=tuple(layers),
            activations={n.args[0].name: QParams(*n.args[1:3]) for n in stores if not is_move(n.args[0])},
            float_layers=tuple(floats),
            averages=averages,
            floating={},
        )

    def _layer(self, node: fx.Node) -> LayerQParams:
        values, scales = (self._constants[constant.name].numpy() for constant in node.args[1].args[:2])
        source = node.args[0]
        reads = None
        if is_call(source, self._operations.dequantize_per_tensor.default):
            reads = QParams(*source.args[1:3])
        return LayerQParams(node.name, QuantizedWeight(values, scales), reads, self._written(node))

    def _written(self, node: fx.Node) -> QParams | None:
        import torch

        aten = torch.ops.aten
        user = only_user(node)
        if is_call(user, aten.relu.default, aten.relu6.default, aten.hardtanh.default):
            return self._written(user)
        stored = is_call(user, self._operations.quantize_per_tensor.default)
        return QParams(*user.args[1:3]) if stored else None


def _weighted(nodes: Any) -> Iterator[fx.Node]:
    import torch

    aten = torch.ops.aten
    return (node for node in nodes if is_call(node, aten.conv2d.default, aten.linear.default))


def _averages(weight: Tensor | None) -> bool:
    return weight is not None and is_average(weight.numpy())
