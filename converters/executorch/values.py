"""Nodes and values of ExecuTorch's XNNPACK graphs: reading them, and adding new ones."""

from __future__ import annotations

import dataclasses
import enum
import numbers
import struct
from collections.abc import Sequence
from typing import Any

from edgevit.compat.executorch import graph_schema, no_value

_UNIONS = ("xnode_union", "xvalue_union", "quant_params")  # fields that a flatbuffer's JSON form names the type of


def kind(node: Any) -> str:
    """ "XNNConv2d" of a node."""
    return type(node.xnode_union).__name__


def tensor(value: Any) -> Any:
    """Shape, datatype and id of a value, quantized or not."""
    return getattr(value.xvalue_union, "tensor_value", value.xvalue_union)


def add_value(graph: Any, shape: Sequence[int], datatype: str, buffer: int = 0, quantization: Any = None) -> int:
    """Append a value of a datatype, "fp32" or another of the schema; buffer: of a constant. Returns its id."""
    schema = graph_schema()
    id_ = unused_id(graph)
    plain = schema.XNNTensorValue(
        getattr(schema.XNNDatatype, f"xnn_datatype_{datatype}"),
        len(shape),
        list(map(int, shape)),
        buffer,
        no_value(),
        0,
        id_,
    )
    value = plain if quantization is None else schema.XNNQuantizedTensorValue(plain, quantization)
    graph.xvalues.append(schema.XValue(value))
    return id_


def unused_id(graph: Any) -> int:
    """An id that no value of the graph has."""
    return 1 + max(tensor(value).id_out for value in graph.xvalues)


def input_names(operation: Any) -> list[str]:
    """The fields of a node that name values it reads: input_id, input1_id, filter_id, ..."""
    names = [field.name for field in dataclasses.fields(operation)]
    return [name for name in names if name.endswith("_id") and name != "output_id"]


def constant_fields(graph: Any) -> list[tuple[Any, str]]:
    """Where the graph's values name constant buffers: (object, field) of data, and of scales that lie apart.

    A field is 0 or less where there is none.
    """
    found = [(tensor(value), "constant_buffer_idx") for value in graph.xvalues]
    qparams = [getattr(value.xvalue_union, "quant_params", None) for value in graph.xvalues]
    return found + [(one, "scale_buffer_idx") for one in qparams if hasattr(one, "scale_buffer_idx")]


def as_json(part: Any) -> Any:
    """A graph, or a part of one, in the JSON form that `pte_reader` reads: a float is the integer of its bits."""
    if isinstance(part, enum.Enum):
        return part.name
    if isinstance(part, (list, tuple)):
        return [as_json(item) for item in part]
    if isinstance(part, numbers.Real) and not isinstance(part, numbers.Integral):
        return struct.unpack("<I", struct.pack("<f", part))[0]
    if not dataclasses.is_dataclass(part):
        return part
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    types = {f"{name}_type": type(value).__name__ for name, value in fields.items() if name in _UNIONS}
    return {name: as_json(value) for name, value in fields.items()} | types
