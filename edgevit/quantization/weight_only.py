"""Int8 weights in a float network: which are quantized, and how. One rule for all targets.

Weights of dense convolutions and linear layers are quantized as in `qparams`; everything is computed in float. The rest
stays as the precision has it: depthwise and large kernels hold few values, and runtimes have no kernels that use int8
weights in float arithmetic for them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING

from edgevit.errors import QuantizationError
from edgevit.export.export_program import export
from edgevit.graph.capture import functional
from edgevit.graph.edit import Graph, argument, is_call, shape
from edgevit.quantization.qdq import store_weight
from edgevit.quantization.qparams import QuantizedWeight
from edgevit.quantization.weight_storage import MIN_VALUES

if TYPE_CHECKING:
    from torch import fx

    from edgevit.export.program import Program

_MAX_TAPS = 25


def round_weights(deployed: fx.GraphModule) -> fx.GraphModule:
    """A copy of a functional graph whose large weights are int8 constants behind `dequantize_per_channel`.

    It computes in float32 with the dequantized weights: what an artifact with int8 weights is compared with. Raises
    QuantizationError if no weight is large enough.
    """
    graph = Graph(copy.deepcopy(deployed))
    nodes = [node for node in graph.nodes if _is_rounded(graph, node)]
    if not nodes:
        raise QuantizationError(
            f"no convolution or linear layer has a weight of {MIN_VALUES} values or more to store in int8",
            fix="leave the weights option out",
        )
    for node in nodes:
        store_weight(graph, node, QuantizedWeight.of(graph.constant_value(node.args[1])))
    graph.tidy()
    return graph.module


def rounded_program(program: Program) -> Program:
    """The program with its weights as in `round_weights`; everything else about it stays."""
    module = round_weights(functional(program.exported))
    exported = export(module, program.spec).exported
    return dataclasses.replace(program, exported=exported)


def _is_rounded(graph: Graph, node: fx.Node) -> bool:
    import torch

    aten = torch.ops.aten
    if not is_call(node, aten.conv2d.default, aten.linear.default) or graph.value(node.args[1]) is None:
        return False
    sizes = shape(node.args[1])  # (O, I, kH, kW) or (O, I)
    dense = len(sizes) == 2 or argument(node, 6, 1) == 1
    return dense and math.prod(sizes) >= MIN_VALUES and math.prod(sizes[2:]) <= _MAX_TAPS
