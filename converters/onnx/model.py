"""Facts of an .onnx file, read without running it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import ContractError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto


_WEIGHT_FROM = 16  # numbers; smaller constants are factors, sizes and axes, whose type an operator may prescribe


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Ends as (name, sizes, dtype) with symbols by name, operators by type, and how many weights of each type.

    opset: of ONNX's own operators; domains: of all operators, "" for ONNX's own.
    """

    opset: int
    domains: frozenset[str]
    inputs: tuple[tuple[str, tuple[str, ...], str], ...]
    outputs: tuple[tuple[str, tuple[str, ...], str], ...]
    ops: Counter[str]
    weights: Counter[str]


def read_model(path: Path) -> ModelProto:
    """Parse and check a file that holds all of its weights. Raises ContractError if it is damaged."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise ContractError(
            f"{path} is no valid ONNX model: {str(error).strip().splitlines()[0][:300]}", fix="convert again"
        ) from error
    return model


def read_facts(path: Path) -> FileFacts:
    """The facts of a file. Raises ContractError if it is damaged."""
    import onnx

    model = read_model(path)
    graph = model.graph
    weights: Counter[str] = Counter()
    for tensor in graph.initializer:
        if math.prod(tensor.dims) >= _WEIGHT_FROM:
            weights[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += 1
    return FileFacts(
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        domains=frozenset(node.domain for node in graph.node),
        inputs=tuple(map(_end, graph.input)),
        outputs=tuple(map(_end, graph.output)),
        ops=Counter(node.op_type for node in graph.node),
        weights=weights,
    )


def _end(value: ValueInfoProto) -> tuple[str, tuple[str, ...], str]:
    import onnx

    tensor = value.type.tensor_type
    sizes = tuple(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
    return value.name, sizes, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
