"""Program -> Graph: walks the ATen nodes, folds what is constant, and collects everything that has no counterpart."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from converters.tflite import int8_operators, weight_storage
from converters.tflite.builder import Builder, Unsupported
from converters.tflite.flatbuffer import Graph, Tensor
from converters.tflite.layout import CHANNELS_LAST, Value, identity, stored
from converters.tflite.ops import axes, elementwise, feature_maps, products, reductions  # noqa: F401, they fill HANDLERS
from converters.tflite.registry import HANDLERS, handle
from edgevit.compat.torch import map_tree, tree_leaves
from edgevit.errors import ConversionError
from edgevit.export.program import Program
from edgevit.graph.edit import argument, node_of, operation
from edgevit.graph.node_names import describe, module_path
from edgevit.spec import Precision

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program as a graph; values: the file's tensor of each node of the program that has one, by the node's name."""

    graph: Graph
    values: dict[str, Value]


def lower(program: Program) -> Lowered:
    """The program as a graph with channels-last feature maps. Raises ConversionError naming every op it cannot take."""
    exported = _without_unknown_composites(program.exported)
    return _Lowering(program, exported).run()


def _without_unknown_composites(exported: ExportedProgram) -> ExportedProgram:
    """Break up the ops without a handler that core ATen can express; the others stay whole."""
    from torch.export import default_decompositions

    unknown = {n.target for n in exported.graph.nodes if n.op == "call_function" and not _known(n)}
    rules = {target: rule for target, rule in default_decompositions().items() if target in unknown}
    return exported.run_decompositions(rules) if rules else exported


def _known(node: fx.Node) -> bool:
    return str(node.target) in HANDLERS or node.target is operator.getitem


class _Lowering:
    """One walk over a graph; `env` maps each node to a Value, a constant tensor, or a tuple of them."""

    def __init__(self, program: Program, exported: ExportedProgram) -> None:
        self.program, self.exported = program, exported
        self.builder = Builder(program.precision)
        self.env: dict[fx.Node, Any] = {}
        self.problems: list[str] = []

    def run(self) -> Lowered:
        import torch

        with torch.no_grad():
            for node in self.exported.graph.nodes:
                if node.op == "placeholder":
                    self.env[node] = self._placeholder(node)
                elif node.op == "call_function":
                    self.env[node] = self._call(node)
                elif node.op == "output" and not self.problems:
                    self._finish(node)
        if self.problems:
            model = self.program.spec.name
            raise ConversionError(
                f"tflite cannot take {len(self.problems)} op(s) of {model}: {'; '.join(self.problems)}",
                fix="rewrite those modules with convolutions, products, plain arithmetic and reshapes",
            )
        same: Mapping[int, int] = {}
        if self.program.precision is Precision.INT8:
            same = int8_operators.use_integers(self.builder.graph, self._weight_scales())
        else:
            weight_storage.store_int8(self.builder.graph, self._weight_scales())
        graph = self.builder.finished(self.program.spec.name)
        return Lowered(graph, self._placed(graph, same))

    def _placed(self, graph: Graph, same: Mapping[int, int]) -> dict[str, Value]:
        """The nodes' values by their tensors in the finished graph, in which names stay and indices close up."""
        indices = {graph.tensors[operator.output].name: operator.output for operator in graph.operators}
        values = ((node.name, value) for node, value in self.env.items() if isinstance(value, Value))
        found = {
            name: (indices.get(self.builder.graph.tensors[same.get(value.tensor, value.tensor)].name), value)
            for name, value in values
        }
        return {name: replace(value, tensor=index) for name, (index, value) in found.items() if index is not None}

    def _weight_scales(self) -> dict[int, Any]:
        """The scales of quantized weights, by the output of the operator that has the weight."""
        scales = {}
        for output in (written.output for written in self.builder.graph.operators):
            node = self.builder.producer(output)
            weight = node.args[1] if node is not None and len(node.args) > 1 else None
            if _is_node(weight) and str(weight.target) == "quantized_decomposed.dequantize_per_channel.default":
                scales[output] = self.env[node_of(weight.args[1])].numpy()
        return scales

    def _placeholder(self, node: fx.Node) -> Any:
        signature = self.exported.graph_signature
        weights = (
            signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
        )
        if node.name in weights:
            return (self.exported.state_dict | self.exported.constants)[weights[node.name]]
        spec = self.program.spec.inputs[signature.user_inputs.index(node.name)]
        order = _end_order(spec.shape)
        tensor = self.builder.graph.add_tensor(Tensor(spec.name, stored(spec.shape, order)))
        self.builder.graph.inputs.append(tensor)
        return Value(tensor, spec.shape, order)

    def _call(self, node: fx.Node) -> Any:
        args, kwargs = map_tree(lambda a: self.env.get(a, a) if _is_node(a) else a, (node.args, node.kwargs))
        leaves = tree_leaves((args, kwargs))
        if node.target is operator.getitem or not any(isinstance(leaf, Value) for leaf in leaves):
            return operation(node)(*args, **kwargs)  # what depends on no input is computed now
        self.builder.node = node
        self.builder.scope = f"{module_path(node).replace('.', '/')}/{node.name}".lstrip("/")
        try:
            if not _known(node):
                raise Unsupported("no counterpart")
            return handle(self.builder, str(node.target), args, kwargs)
        except Unsupported as problem:
            self.problems.append(f"{describe(node)} ({problem})")
            return _stand_in(node)

    def _finish(self, node: fx.Node) -> None:
        for result, spec in zip(argument(node, 0), self.program.spec.outputs, strict=True):
            value = self.builder.value(self.env[result])
            value = self.builder.relaid(value, _end_order(value.shape))
            self.builder.graph.tensors[value.tensor].name = spec.name
            self.builder.graph.outputs.append(value.tensor)


def _is_node(argument: Any) -> TypeGuard[fx.Node]:
    from torch import fx

    return isinstance(argument, fx.Node)


def _end_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Feature maps enter and leave channels-last, everything else as the graph has it."""
    return CHANNELS_LAST if len(shape) == 4 else identity(len(shape))


def _stand_in(node: fx.Node) -> Any:
    """A value of the right shape for one that could not be made, so that the walk finds the other problems."""
    result = node.meta["val"]
    shapes = [tuple(part.shape) for part in (result if isinstance(result, (tuple, list)) else (result,))]
    values = tuple(Value(0, shape, identity(len(shape))) for shape in shapes)
    return values if isinstance(result, (tuple, list)) else values[0]
