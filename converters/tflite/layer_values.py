"""A .tflite file whose intermediate activations are outputs too: the same operators in the same runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from converters.tflite.flatbuffer import serialize
from converters.tflite.layout import Value
from converters.tflite.lowering import lower
from edgevit.errors import ContractError
from edgevit.export.program import Program


def traced_file(path: Path, program: Program, nodes: Sequence[str]) -> tuple[bytes, dict[str, tuple[str, Value]]]:
    """The file at `path` with the values of `nodes` as outputs; and by node the output's name and how it lies.

    Nodes that the file has no tensor for are left out. Raises ContractError if the file is not what this program
    becomes: then its tensors could be other ones.
    """
    lowered = lower(program)
    if serialize(lowered.graph, program.spec.name) != path.read_bytes():
        raise ContractError(
            f"{path} is not what this version of edgevit makes of its checkpoint",
            fix="convert again, then debug what that gives",
        )
    values = {node: lowered.values[node] for node in nodes if node in lowered.values}
    outputs = dict.fromkeys([*lowered.graph.outputs, *(value.tensor for value in values.values())])
    graph = replace(lowered.graph, outputs=list(outputs))
    names = {node: (graph.tensors[value.tensor].name, value) for node, value in values.items()}
    return serialize(graph, program.spec.name), names


def in_graph_form(outputs: Mapping[str, np.ndarray], names: Mapping[str, tuple[str, Value]]) -> dict[str, np.ndarray]:
    """What a run of such a file gave, by node and with the axes as the program counts them."""
    return {
        node: np.ascontiguousarray(outputs[name].transpose(np.argsort(value.order)).reshape(value.shape))
        for node, (name, value) in names.items()
    }
