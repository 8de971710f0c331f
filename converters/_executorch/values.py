"""Nodes and values of ExecuTorch's XNNPACK graphs: reading them, and adding new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


def kind(node: Any) -> str:
    """ "XNNConv2d" of a node."""
    return type(node.xnode_union).__name__


def tensor(value: Any) -> Any:
    """Shape, datatype and id of a value, quantized or not."""
    return getattr(value.xvalue_union, "tensor_value", value.xvalue_union)


def add_value(graph: Any, shape: Sequence[int], datatype: str, buffer: int = 0, quantization: Any = None) -> int:
    """Append a value of a datatype, "fp32" or another of the schema; buffer: of a constant. Returns its id."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
        XNNDatatype,
        XNNQuantizedTensorValue,
        XNNTensorValue,
        XValue,
    )
    from executorch.backends.xnnpack.utils.xnnpack_constants import XNN_INVALID_VALUE_ID

    id_ = 1 + max(tensor(value).id_out for value in graph.xvalues)
    plain = XNNTensorValue(
        getattr(XNNDatatype, f"xnn_datatype_{datatype}"),
        len(shape),
        list(map(int, shape)),
        buffer,
        XNN_INVALID_VALUE_ID,
        0,
        id_,
    )
    graph.xvalues.append(XValue(plain if quantization is None else XNNQuantizedTensorValue(plain, quantization)))
    return id_


def input_names(operation: Any) -> list[str]:
    """The fields of a node that name values it reads: input_id, input1_id, filter_id, ..."""
    names = [field.name for field in dataclasses.fields(operation)]
    return [name for name in names if name.endswith("_id") and name != "output_id"]
