"""Time per operation of a .pte: `python -m benchmarks.xnnpack_replay FILE ... --report FILE ...`.

ExecuTorch's wheel has no profiler inside, so the delegate's graph is read from the file, and every distinct operation
(type, shapes, parameters) becomes a program of its own, kept in operations/ of the setup folder: once with one copy,
once with `_COPIES`, each copy with its weights. The difference is the operation without the call around it. What it
cannot show: weights and feature maps that other operations push out of the caches. The sum is therefore reported
beside the whole network.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operations import (
    CONVOLUTION,
    COPY,
    ELEMENTWISE,
    PRODUCT,
    REST,
    SOFTMAX,
    Timed,
    add_up,
    convolution_kind,
    job_parser,
)
from converters.executorch.pte_reader import Json, graph_schema, read_contents
from edgevit.compat import executorch
from edgevit.infra.files import write_bytes, write_json
from edgevit.infra.optional_imports import version
from edgevit.log import captured_native_output
from edgevit.profiling.latency_statistics import median

_COPIES = 3
_NO_VALUE = 0xFFFFFFFF  # XNNPACK's id for an absent bias, and its mark of a value that is no input or output
_INPUT, _OUTPUT = 1, 2  # flags of external values
_KINDS = {
    "XNNFullyConnected": PRODUCT,
    "XNNBatchMatrixMultiply": PRODUCT,
    "XNNScaledDotProductAttention": PRODUCT,
    "XNNConvTranspose2d": CONVOLUTION,
    "XNNSoftmax": SOFTMAX,
    "XNNStaticTranspose": COPY,
    "XNNStaticReshape": COPY,
    "XNNStaticSlice": COPY,
    "XNNConvert": COPY,
    "XNNCopy": COPY,
    "XNNConcatenate2": COPY,
    "XNNConcatenate3": COPY,
    "XNNConcatenate4": COPY,
    "XNNConcatenate5": COPY,
    "XNNStaticConstantPad": COPY,
    "XNNGlobalAvgPooling2d": REST,
    "XNNAvgPooling2d": REST,
    "XNNMaxPooling2d": REST,
    "XNNArgMaxPooling2d": REST,
    "XNNStaticResizeBilinear2D": REST,
    "XNNStaticMean": REST,
    "XNNStaticSum": REST,
}

_BY_SIZE = frozenset(
    f"XNN{name}"
    for name in (
        "StaticReshape",
        "Add",
        "Subtract",
        "Multiply",
        "Divide",
        "Div",
        "Clamp",
        "Gelu",
        "Sigmoid",
        "Hardswish",
    )
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One node of a delegate's graph with its values, ids replaced by roles, so that equal work compares equal."""

    type: str
    text: str  # canonical JSON of {"node", "values", "constants"}

    @property
    def parts(self) -> Json:
        return json.loads(self.text)

    @property
    def inputs(self) -> list[str]:
        """Roles of the values that other operations made; a value in two roles counts once."""
        parts = self.parts
        names = [role for role in parts["values"] if role != "output_id" and role not in parts["constants"]]
        return [role for role in names if not (role == "input2_id" and role in parts["same"])]

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        values = self.parts["values"]
        return [tuple(values[role]["dims"]) for role in self.inputs]

    @property
    def kind(self) -> str:
        node = self.parts["node"]
        if self.type in ("XNNConv2d", "XNNDepthwiseConv2d"):
            kernel = (node["kernel_height"], node["kernel_width"])
            # A group of its own per channel is depthwise however it is written.
            depthwise = self.type == "XNNDepthwiseConv2d" or node["groups"] > 1 == node["group_input_channels"]
            return convolution_kind(kernel, depthwise=depthwise)
        return _KINDS.get(self.type, ELEMENTWISE)

    @property
    def name(self) -> str:
        parts = self.parts
        node = parts["node"]
        shapes = ["x".join(map(str, v["dims"])) for role, v in sorted(parts["values"].items()) if role != "bias_id"]
        kernel = f" {node['kernel_height']}x{node['kernel_width']}" if "kernel_height" in node else ""
        return f"{self.type.removeprefix('XNN')}{kernel} {', '.join(shapes)}"


def read_operations(path: Path) -> tuple[Counter[Operation], Counter[str]]:
    """Operations of a .pte's XNNPACK delegates, and the kernels that it calls outside of them, with their counts."""
    contents = read_contents(path)
    inside: Counter[Operation] = Counter()
    for delegate in contents.delegates:
        inside.update(_operations(delegate.graph))
    return inside, Counter(call.name for call in contents.calls)


def _operations(graph: Json) -> Iterator[Operation]:
    values = {value["xvalue_union"]["id_out"]: value["xvalue_union"] for value in graph["xvalues"]}
    for entry in graph["xnodes"]:
        node = entry["xnode_union"]
        roles = {key: node[key] for key in node if key.endswith("_id") and node[key] != _NO_VALUE}
        parts = {
            "node": {key: value for key, value in node.items() if key not in roles},
            "values": {
                role: {key: values[id_][key] for key in ("datatype", "num_dims", "dims")}
                for role, id_ in roles.items()
                if id_ in values
            },
            "constants": sorted(r for r, id_ in roles.items() if id_ in values and values[id_]["constant_buffer_idx"]),
            "same": sorted(r for r, id_ in roles.items() if list(roles.values()).count(id_) > 1),
            "options": entry.get("output_min_max"),
        }
        kind = entry["xnode_union_type"]
        yield Operation(kind, json.dumps(_flattened(kind, parts), sort_keys=True))


def _flattened(type_: str, parts: Json) -> Json:
    """Shapes as one dimension where only the number of elements counts: fewer distinct operations, same work."""
    tensors, node = parts["values"].values(), parts["node"]
    sizes = {math.prod(tensor["dims"]) for tensor in tensors}
    if type_ in _BY_SIZE and len(sizes) == 1 and not parts["constants"]:
        (size,) = sizes
        flat = {role: tensor | {"num_dims": 1, "dims": [size]} for role, tensor in parts["values"].items()}
        shape = {"num_dims": 1, "new_shape": [size]} if "new_shape" in node else {}
        return parts | {"values": flat, "node": node | shape}
    return parts


def build_program(operation: Operation, copies: int) -> bytes:
    """A .pte of `copies` equal operations on the same inputs. All tensors are float32."""
    import torch
    from executorch.exir import to_edge

    graph, constants = _repeated(operation, copies)
    result = operation.parts["values"]["output_id"]["dims"]

    class Shapes(torch.nn.Module):
        """Only inputs and outputs of this network count; its delegate is replaced."""

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            seed = sum(tensor.sum() for tensor in inputs)
            return tuple(torch.zeros(result) + seed for _ in range(copies))

    examples = tuple(torch.zeros(shape) for shape in operation.input_shapes)
    edge = to_edge(torch.export.export(Shapes(), examples)).exported_program()
    return executorch.delegate_program(edge, "XnnpackBackend", _serialize(graph, constants))


def _repeated(operation: Operation, copies: int) -> tuple[Json, bytes]:
    """Graph as JSON and its constants' bytes; inputs come first among the externals, then one output per copy."""
    parts, inputs = operation.parts, operation.inputs
    values, fixed = parts["values"], parts["constants"]
    shared = {role: index for index, role in enumerate(inputs)}
    externs = len(inputs) + copies
    entries = [_value(values[role], shared[role], external=shared[role], flags=_INPUT) for role in inputs]
    nodes, buffers, constant = [], [{"offset": 0, "size": 0}], bytearray()
    numbers = np.random.default_rng(0)
    for copy in range(copies):
        ids = dict(shared) | {"output_id": len(inputs) + copy}
        if "input2_id" in parts["same"]:
            ids["input2_id"] = ids["input1_id"]
        for role in fixed:
            ids[role] = externs + copy * len(fixed) + fixed.index(role)
            data = numbers.standard_normal(values[role]["dims"] or [1], dtype=np.float32).tobytes()
            buffers.append({"offset": len(constant), "size": len(data)})
            constant += data + bytes(-len(data) % 16)
            entries.append(_value(values[role], ids[role], constant=len(buffers) - 1))
        entries.append(_value(values["output_id"], ids["output_id"], external=ids["output_id"], flags=_OUTPUT))
        node: Json = {"xnode_union_type": operation.type, "xnode_union": parts["node"] | ids, "debug_handle": copy}
        nodes.append(node | ({"output_min_max": parts["options"]} if parts["options"] else {}))
    graph = {
        "version": "0",
        "xnodes": nodes,
        "xvalues": entries,
        "num_externs": externs,
        "input_ids": list(shared.values()),
        "output_ids": [len(inputs) + copy for copy in range(copies)],
        "constant_data": buffers,
    }
    return graph, bytes(constant)


def _value(like: Json, id_: int, *, external: int = _NO_VALUE, flags: int = 0, constant: int = 0) -> Json:
    tensor = like | {"constant_buffer_idx": constant, "external_id": external, "flags": flags, "id_out": id_}
    return {"xvalue_union_type": "XNNTensorValue", "xvalue_union": tensor}


def _serialize(graph: Json, constants: bytes) -> bytes:
    flatbuffer = executorch.json_to_flatbuffer(graph_schema(), graph)
    return executorch.join_delegate(executorch.DelegateData(flatbuffer, constants))


def _kept_program(operation: Operation, copies: int, shelf: Path) -> Path:
    """`build_program` as a file of `shelf`, built once; its name says what it depends on."""
    key = f"{operation.type} {operation.text} {copies} {version('executorch')}"
    path = shelf / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pte"
    if not path.is_file():
        write_bytes(path, build_program(operation, copies))
    return path


def replay(
    files: Sequence[Path], image: np.ndarray, shelf: Path, *, threads: int, rounds: int, runs: int
) -> list[Json]:
    """Times per kind of each file. Every round takes `runs` of each operation and of each whole network, in turn."""
    import torch

    executorch.set_threads(threads)
    contents = [read_operations(path) for path in files]
    calls: dict[Any, Callable[[], Any]] = {}
    for operation in {operation for inside, _ in contents for operation in inside}:
        for copies in (1, _COPIES):
            path = _kept_program(operation, copies, shelf)
            inputs = tuple(torch.randn(shape) for shape in operation.input_shapes)
            calls[operation, copies] = _caller(executorch.load_module(path), inputs)
    for path in files:
        calls[path, 1] = _caller(executorch.load_module(path), (torch.from_numpy(image),))
    samples = _interleaved(calls, rounds, runs)
    results = []
    for path, (inside, outside) in zip(files, contents, strict=True):
        timed = [
            Timed(
                operation.kind,
                operation.name,
                count,
                max(0.0, samples[operation, _COPIES] - samples[operation, 1]) / (_COPIES - 1),
            )
            for operation, count in inside.items()
        ]
        summary = add_up(timed, samples[path, 1], "replayed one by one")
        results.append(summary | {"outside": dict(sorted(outside.items()))})
    return results


def _caller(module: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: module.forward(inputs, clone_outputs=False)


def _interleaved(calls: dict[Any, Callable[[], Any]], rounds: int, runs: int) -> dict[Any, float]:
    """Milliseconds: the median over rounds of the median of a round's runs."""
    medians: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            call()
            samples = []
            for _ in range(runs):
                started = time.perf_counter_ns()
                call()
                samples.append((time.perf_counter_ns() - started) / 1e6)
            medians[key].append(median(samples))
    return {key: median(values) for key, values in medians.items()}


def main() -> None:
    """Write {"operations": [...]} in the order of the files."""
    parser = job_parser(__doc__.splitlines()[0])
    parser.add_argument("--setup", type=Path, required=True, help="its input.npy is the image")
    job = parser.parse_args()
    with captured_native_output():
        image, shelf = np.load(job.setup / "input.npy"), job.setup / "operations"
        results = replay(job.files, image, shelf, threads=job.threads, rounds=job.rounds, runs=job.runs)
    write_json(job.report, {"operations": results})


if __name__ == "__main__":
    main()
