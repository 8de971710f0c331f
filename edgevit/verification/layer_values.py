"""Intermediate activations of a program: which nodes are layers, and what each computes from given inputs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.compat.torch import qdq_operations
from edgevit.export.program import Program
from edgevit.graph.edit import argument, is_call, only_user, source_of
from edgevit.graph.node_names import module_path
from edgevit.quantization.annotation import is_move
from edgevit.quantization.qparams import QParams
from edgevit.spec import Precision

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True, slots=True)
class Layer:
    """A node of a program's graph whose value is compared.

    node: its name; of a quantized tensor that of its quantize node. source: the node that computes it. operation:
    "conv2d", with a fused activation "conv2d relu". place: the path of its module, "" outside of all.
    """

    node: str
    source: str
    operation: str
    place: str
    qparams: QParams | None


def layers_of(program: Program) -> tuple[Layer, ...]:
    """The layers of a program in execution order.

    A quantized tensor counts once, as the integers that a kernel writes; a float tensor counts where it is computed,
    behind a fused activation that its kernel applies. Data movement and constants are no layers.
    """
    return tuple(_layers(program))


def _layers(program: Program) -> Iterator[Layer]:
    quantize = qdq_operations().quantize_per_tensor.default
    dependent = set(program.exported.graph_signature.user_inputs)
    for node in program.exported.graph.nodes:
        if node.op != "call_function" or not dependent.intersection(source.name for source in node.all_input_nodes):
            continue
        dependent.add(node.name)
        if is_call(node, quantize):
            source = source_of(node)
            if not is_move(source):
                qparams = QParams(argument(node, 1), argument(node, 2))
                yield Layer(node.name, source.name, _operation(source), module_path(source), qparams)
        elif _computes(node) and not is_call(only_user(node), quantize, *_fused_activations()):
            yield Layer(node.name, node.name, _operation(node), module_path(node), None)


def _computes(node: fx.Node) -> bool:
    import torch

    single = isinstance(node.meta.get("val"), torch.Tensor)
    return single and not is_move(node) and not is_call(node, qdq_operations().dequantize_per_tensor.default)


def _fused_activations() -> tuple[Any, ...]:
    import torch

    aten = torch.ops.aten
    return aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default


def _operation(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.target is operator.getitem:
        return _operation(source_of(node))
    name = str(node.target).removeprefix("aten.").split(".")[0]
    source = node.all_input_nodes[0]
    absorbed = is_call(node, *_fused_activations()) and only_user(source) is node and source.op == "call_function"
    return f"{_operation(source)} {name}" if absorbed and not is_move(source) and _computes(source) else name


class ProgramTrace:
    """A program evaluated node by node in PyTorch, for one image at a time; an int8 one in integer arithmetic.

    layers: of an int8 program with the same operations, under whose names values go in and out; given integers are
    dequantized.
    """

    def __init__(self, program: Program, layers: Sequence[Layer] | None = None) -> None:
        exported = program.exported
        called: Mapping[str, str] = {}
        if program.precision is Precision.INT8:
            from edgevit.quantization.integer_emulation import named_emulated_integers

            exported, called = named_emulated_integers(exported)
        signature = exported.graph_signature
        names = (
            signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
        )
        stored = exported.state_dict | exported.constants
        self._constants = {placeholder: stored[name].detach() for placeholder, name in names.items()}
        self._nodes = list(exported.graph.nodes)
        self._qparams: dict[str, QParams | None] = {}
        if layers is None:
            self._layers = {called.get(layer.node, layer.node): layer.node for layer in layers_of(program)}
        else:
            self._layers = {layer.source: layer.node for layer in layers}
            self._qparams = {layer.node: layer.qparams for layer in layers}

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every layer for a normalised image (1, 3, H, W): int8 where it is quantized."""
        return self._walk(tensor, {})

    def follow(self, tensor: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The output of every layer on the given values of the layers before it.

        The difference to the layer's own given value is its local error.
        """
        return self._walk(tensor, values)

    def _walk(self, tensor: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch
        from torch.fx.node import map_arg

        known: dict[fx.Node, Any] = {}
        made = {}
        with torch.no_grad():
            for node in self._nodes:
                if node.op == "placeholder":
                    known[node] = self._constants.get(node.name, torch.from_numpy(tensor))
                elif node.op == "call_function":
                    arguments, options = map_arg((node.args, node.kwargs), known.__getitem__)
                    known[node] = node.target(*arguments, **options)
                layer = self._layers.get(node.name)
                if layer is not None:
                    made[layer] = known[node].numpy()
                    if layer in values:
                        qparams, value = self._qparams.get(layer), values[layer]
                        known[node] = torch.from_numpy(
                            value if qparams is None else qparams.dequantize(value).astype(np.float32)
                        )
        return made
