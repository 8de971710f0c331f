"""What a .pte file holds: the graphs of its XNNPACK delegates with their constants, and the kernels called outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgevit.compat import executorch
from edgevit.errors import ContractError

Json = dict[str, Any]
_BACKEND = "XnnpackBackend"


@dataclass(frozen=True, slots=True)
class Delegate:
    """One delegated piece of the network.

    graph: XNNPACK's flatbuffer as JSON by `graph_schema`, so every float is the integer with its bits.
    """

    graph: Json
    _inline: bytes
    _named: Mapping[str, bytes]

    def constant(self, index: int) -> bytes:
        """The bytes behind a constant buffer's index, which is not 0."""
        entry = self.graph["constant_data"][index]
        if entry["named_key"]:
            return self.named(index)[: entry["size"]]
        return self._inline[entry["offset"] : entry["offset"] + entry["size"]]

    def key(self, index: int) -> str:
        """The name that the runtime finds a constant by, "" for one that lies in the delegate itself."""
        return self.graph["constant_data"][index]["named_key"]

    def named(self, index: int) -> bytes:
        """All bytes that are stored under a constant's name, b"" for one without."""
        return self._named[self.key(index)] if index > 0 and self.key(index) else b""


class Value(NamedTuple):
    """A value of a delegate's graph: kind of its quantization ("" for none), its tensor, its quantization."""

    kind: str
    tensor: Json
    qparams: Json


def values_of(graph: Json) -> dict[int, Value]:
    """The values of a graph by their ids, which are the delegate's own."""
    found = {}
    for entry in graph["xvalues"]:
        union = entry["xvalue_union"]
        value = Value(
            union.get("quant_params_type", ""), union.get("tensor_value", union), union.get("quant_params", {})
        )
        found[value.tensor["id_out"]] = value
    return found


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A call that no delegate took: the kernel's name, its arguments where they are plain numbers, else None."""

    name: str
    arguments: tuple[float | int | bool | None, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Of all methods of a file; delegates of other backends than XNNPACK are left out."""

    delegates: tuple[Delegate, ...]
    calls: tuple[KernelCall, ...]


def read_contents(path: Path) -> Contents:
    """Read a .pte file. Raises ContractError if it is damaged."""
    try:
        file = executorch.read_program(path.read_bytes())
        named = {}
        if file.named_data is not None:
            named = {key: executorch.stored_bytes(file.named_data, key) for key in file.named_data.pte_data}
        plans, data = file.program.execution_plan, file.program.backend_delegate_data
        blobs = [
            bytes(data[one.processed.index].data) for plan in plans for one in plan.delegates if one.id == _BACKEND
        ]
        calls = tuple(call for plan in plans for call in _calls(plan))
        return Contents(tuple(_delegate(blob, named) for blob in blobs), calls)
    except Exception as error:  # a damaged flatbuffer sends its reader anywhere: each type means the same
        raise ContractError(
            f"{path} is damaged: its program cannot be read ({type(error).__name__})",
            fix="copy it again, or convert again",
        ) from error


def graph_schema() -> bytes:
    """XNNPACK's schema with every float declared as an integer of its size.

    The tool that prints and parses the JSON form writes floats with six decimals; as integers their bits come whole.
    """
    return re.sub(rb"\bfloat\b", b"uint", executorch.graph_schema_text())


def _delegate(blob: bytes, named: Mapping[str, bytes]) -> Delegate:
    parts = executorch.split_delegate(blob)
    graph = executorch.flatbuffer_to_json(graph_schema(), parts.flatbuffer)
    return Delegate(graph, parts.constants, named)


def _calls(plan: Any) -> Iterator[KernelCall]:
    numbers = [getattr(value.val, f"{type(value.val).__name__.lower()}_val", None) for value in plan.values]
    for step in (step.instr_args for chain in plan.chains for step in chain.instructions):
        if type(step).__name__ == "KernelCall":
            arguments = tuple(numbers[index] for index in step.args)
            yield KernelCall(plan.operators[step.op_index].name, arguments)
