"""Casts a float32 program to fp16 or bf16; its inputs and outputs stay float32."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from edgevit.export.program import Program
from edgevit.graph.capture import capture, functional, to_functional
from edgevit.spec import Precision

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.export import ExportedProgram


def cast_to_precision(program: Program, exported: ExportedProgram | None = None) -> ExportedProgram:
    """The program's graph in its precision: unchanged for fp32 and int8, cast as a whole to fp16 or bf16 for those.

    Kernels of normalisation, softmax and products sum in float32 inside, as those of torch and ONNX runtimes do.
    exported: the graph to cast instead of the program's own, such as one with more outputs.
    Raises ExportError if the cast graph cannot be captured.
    """
    import torch

    types = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
    graph = program.exported if exported is None else exported
    if program.precision not in types:
        return graph
    dtype = types[program.precision]
    network = copy.deepcopy(functional(graph)).to(dtype)  # a copy: the program keeps its weights
    for node in list(network.graph.nodes):
        if node.op == "placeholder":
            with network.graph.inserting_after(node):
                cast = _cast(network.graph, node, dtype)
            node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user is not cast)
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            network.graph.erase_node(node)  # it asserts the type before the cast
        elif node.op == "call_function":
            _retype(node, dtype)
        elif node.op == "output":
            for result in node.all_input_nodes:
                with network.graph.inserting_before(node):
                    node.replace_input_with(result, _cast(network.graph, result, torch.float32))
    network.recompile()
    inputs = program.example_inputs
    return to_functional(capture(network, inputs, program.spec.name, dynamic_batch=program.dynamic_batch))


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    import torch

    return graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": dtype})


def _retype(node: fx.Node, dtype: torch.dtype) -> None:
    """Operations that name float32 as their result's type name the new one."""
    import torch

    node.args = tuple(dtype if value is torch.float32 else value for value in node.args)
    node.kwargs = {key: dtype if value is torch.float32 else value for key, value in node.kwargs.items()}
