"""What XNNPACK's weights cache does with a file, and what the file must be like for that to be right.

Android's and Apple's builds of ExecuTorch keep the packed form of every weight in a table of the whole process, under
the name of the weight and that of the bias; the Python wheel leaves that table off. A name that does not cover
everything that goes into packing gets another layer's packing, of the same file or of one that was loaded before.
ExecuTorch names a constant by its bytes alone; here a weight's name, and bytes behind its own, also encode how it is
packed. And once a delegate is built, the runtime frees its constants: what reads one without packing it reads freed
memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from converters.executorch.pte_reader import Delegate, Json, values_of
from converters.executorch.serializing import add_constant, drop_unused_constants, stored_constant
from converters.executorch.values import as_json, tensor, unused_id
from edgevit.targets.base import Audit

PACKED = frozenset(f"XNN{name}" for name in ("Conv2d", "DepthwiseConv2d", "FullyConnected", "ConvTranspose2d"))
_TENSORS = ("input1_id", "filter_id", "bias_id", "output_id")
_QPARAMS = ("scale", "zero_point", "channel_dim", "group_size", "num_nonbatch_dims")
_TAIL_BYTES = 16  # of the digest, behind the weight: equal bytes would be stored once and found by their address
_SHOWN = 3  # faults of a kind that are named one by one

Constant = Callable[[int], bytes]  # the bytes behind a constant buffer's index


def name_packed_weights(graph: Any, store: Any) -> None:
    """Give the weight of each layer of a graph a name and bytes made from all that decides its packing.

    Layers that are packed alike share one weight, in a file and between files. Scales and biases keep their names.
    """
    values = {tensor(value).id_out: value for value in graph.xvalues}
    named: dict[int, dict[str, int]] = {}  # a weight -> its packings' digests -> the values that hold it for them
    for index, packing in _packings(as_json(graph), lambda buffer: stored_constant(graph, store, buffer)):
        layer, digest = graph.xnodes[index].xnode_union, packing.digest
        forms = named.setdefault(layer.filter_id, {})
        if digest not in forms:
            forms[digest] = _add_named(graph, store, values[layer.filter_id], digest, again=bool(forms))
        layer.filter_id = forms[digest]
    drop_unused_constants(graph, store)


def _add_named(graph: Any, store: Any, value: Any, digest: str, *, again: bool) -> int:
    """The id of a value with a weight under its own name: the value itself, or `again` a second one."""
    data = stored_constant(graph, store, tensor(value).constant_buffer_idx)
    if again:
        value = copy.deepcopy(value)
        tensor(value).id_out = unused_id(graph)
        graph.xvalues.append(value)
    tail = bytes.fromhex(digest)[:_TAIL_BYTES]
    tensor(value).constant_buffer_idx = add_constant(graph, store, digest, data + tail, len(data))
    return tensor(value).id_out


def audit(delegates: Sequence[Delegate]) -> Audit:
    """Whether phones' builds of the runtime will find each weight's own packing, and read no constant they freed."""
    packings: dict[tuple[str, str], dict[str, str]] = {}  # what a weight and its bias are found by -> packing -> layer
    layers = own = 0
    in_place: list[str] = []
    for place, delegate in enumerate(delegates):
        nodes = delegate.graph["xnodes"]
        in_place += [f"{_name(nodes, place, index)} ({field})" for index, field in _read_in_place(delegate.graph)]
        values = values_of(delegate.graph)
        for index, packing in _packings(delegate.graph, delegate.constant):
            node, layers = nodes[index]["xnode_union"], layers + 1
            weight, bias = (_identity(delegate, values.get(node[field])) for field in ("filter_id", "bias_id"))
            own += delegate.key(values[node["filter_id"]].tensor["constant_buffer_idx"]) == packing.digest
            if weight:
                packings.setdefault((weight, bias), {}).setdefault(packing.result, _name(nodes, place, index))
    mixed = [" and ".join(list(found.values())[:2]) for found in packings.values() if len(found) > 1]
    faults = []
    if mixed:
        faults.append(f"layers that are packed differently have one name for their packed weights: {_listed(mixed)}")
    if in_place:
        faults.append(f"constants that are freed once the file is loaded are read in place: {_listed(in_place)}")
    named = "all" if own == layers > 0 else own
    return Audit(
        f"{len(delegates)} XNNPACK delegates, {layers} packed weights, {named} named by their packing", tuple(faults)
    )


@dataclass(frozen=True, slots=True)
class _Packing:
    """All that may decide how a layer's weight is packed; tensors: facts of input, weight, bias and result."""

    kind: str
    attributes: Json
    tensors: tuple[Json, Json, Json, Json]

    @property
    def digest(self) -> str:
        return _digest(json.dumps([self.kind, self.attributes, self.tensors], sort_keys=True).encode())

    @property
    def result(self) -> str:
        """Equal for layers that XNNPACK packs to the same bytes, though their digests may differ.

        A dense 1x1 convolution is packed as a linear layer. Padding, dilation and the result's zero point are for the
        kernel alone, so files that ExecuTorch itself named can be right where they differ.
        """
        source, weight, bias, result = self.tensors
        kind, attributes = self.kind, self.attributes
        kernel = [attributes.get(name, 1) for name in ("kernel_height", "kernel_width", "groups")]
        if kind in ("XNNConv2d", "XNNFullyConnected") and kernel == [1, 1, 1]:
            rows = weight["dims"][0]
            kind, attributes, weight = "matrix", {}, weight | {"dims": [rows, math.prod(weight["dims"][1:])]}
        attributes = {name: attributes[name] for name in attributes if not name.startswith(("padding", "dilation"))}
        result = {name: result[name] for name in result if name != "zero_point"}
        return _Packing(kind, attributes, (source, weight, bias, result)).digest


def _packings(graph: Json, constant: Constant) -> Iterator[tuple[int, _Packing]]:
    """The layers that pack a constant weight, by their place among the nodes."""
    values = values_of(graph)

    def facts(id_: int) -> Json:
        value = values.get(id_)
        if value is None:  # no bias
            return {}
        found = {"datatype": value.tensor["datatype"], "kind": value.kind}
        found |= {name: value.qparams[name] for name in _QPARAMS if value.qparams.get(name) is not None}
        if value.qparams.get("scale_buffer_idx", 0) > 0:
            found["scale"] = _digest(constant(value.qparams["scale_buffer_idx"]))
        if value.tensor["constant_buffer_idx"]:
            data = constant(value.tensor["constant_buffer_idx"])
            found |= {"dims": value.tensor["dims"], "data": _digest(data)}
        return found

    for index, entry in enumerate(graph["xnodes"]):
        node = entry["xnode_union"]
        if entry["xnode_union_type"] in PACKED and _is_constant(values, node["filter_id"]):
            attributes = {name: number for name, number in node.items() if not name.endswith("_id")}
            source, weight, bias, result = (facts(node[name]) for name in _TENSORS)
            yield index, _Packing(entry["xnode_union_type"], attributes, (source, weight, bias, result))


def _read_in_place(graph: Json) -> Iterator[tuple[int, str]]:
    """Nodes and their fields that read a constant, but do not pack it while the delegate is built."""
    values = values_of(graph)
    for index, entry in enumerate(graph["xnodes"]):
        node = entry["xnode_union"]
        packs = entry["xnode_union_type"] in PACKED and _is_constant(values, node["filter_id"])
        for field in node:
            packed = packs and field in ("filter_id", "bias_id")
            if field.endswith("_id") and not packed and _is_constant(values, node[field]):
                yield index, field


def _is_constant(values: dict[int, Any], id_: int) -> bool:
    return id_ in values and values[id_].tensor["constant_buffer_idx"] > 0


def _identity(delegate: Delegate, value: Any) -> str:
    """Equal for constants that the cache may find by one name or one address; "" for none that it can find."""
    named = b"" if value is None else delegate.named(value.tensor["constant_buffer_idx"])
    return _digest(named) if named else ""


def _name(nodes: Sequence[Json], place: int, index: int) -> str:
    return f"{nodes[index]['xnode_union_type'].removeprefix('XNN')} {place}.{index}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
