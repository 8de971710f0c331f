"""Private names of ExecuTorch. None is loaded before it is asked for.

What its runtime exports to the linker alone is used in converters/executorch/runtime_settings.py, and there only: that
file is about nothing else.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgevit.infra.optional_imports import require

if TYPE_CHECKING:
    from torch.export import ExportedProgram

BINDINGS = "executorch.extension.pybindings._portable_lib"
_XNNPACK = "executorch.backends.xnnpack"

# The runtime. `executorch.runtime` is public, but has neither the number of threads nor the list of kernels, and its
# wrapper `portable_lib` warns on import that it is experimental.


def bindings() -> ModuleType:
    """The runtime's native module."""
    return require(BINDINGS, "executorch")


def set_threads(count: int) -> int:
    """Give the process's one thread pool `count` threads; returns how many it has."""
    runtime = bindings()
    runtime._unsafe_reset_threadpool(count)
    return int(runtime._threadpool_get_thread_count())


def load_module(program: Path | bytes) -> Any:
    """A .pte file, or its bytes, loaded: method_names(), method_meta(name), forward(tensors, clone_outputs=True)."""
    if isinstance(program, bytes):
        return bindings()._load_for_executorch_from_buffer(program)
    return bindings()._load_for_executorch(str(program))


def kernel_names() -> list[str]:
    """The kernels that the runtime has outside of delegates, such as "aten::add.out"."""
    return bindings()._get_operator_names()


# Lowering.


def unchecked_edge_config() -> Any:
    """Settings that let operations outside core ATen into the edge dialect: the runtime's kernels decide instead."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=False)


def aten_operation(target: Any) -> Any:
    """The torch operation behind one of the edge dialect; any other as it is."""
    from executorch.exir.dialects.edge._ops import EdgeOpOverload

    return target._op if isinstance(target, EdgeOpOverload) else target


def partitioner_configs() -> list[type]:
    """The classes by which XNNPACK's partitioner takes operations, one for each kind of them."""
    return list(require(f"{_XNNPACK}.partition.config", "executorch").ALL_PARTITIONER_CONFIGS)


def prelu_config() -> type:
    """The one of PReLU."""
    return require(f"{_XNNPACK}.partition.config.node_configs", "executorch").PreluConfig


def fold_constants(exported: ExportedProgram) -> ExportedProgram:
    """Compute, in place, all that depends on no input."""
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    return constant_prop_pass(exported, custom_skip_targets=set())


# XNNPACK's passes that each rewrite one pattern, and operations without which a graph does not have it. Bilinear
# upsampling needs no rewriting any more: it reaches XNNPACK as one operation.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "ConvertToUpsampleBilinear2d": (),
    "ConvertToSDPAPass": ("aten.logical_not",),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "PReLUReshapePass": ("prelu",),
    "DecomposeConcatenate": ("aten.cat.",),
}


@contextmanager
def without_idle_passes() -> Iterator[None]:
    """While active, XNNPACK's passes do not run on a graph that has nothing for them.

    Each traces the whole graph anew, and two first export, once in a process, the networks that they look for: three
    seconds of every conversion. A pass that is not known here runs.
    """
    preprocess: Any = require(f"{_XNNPACK}.xnnpack_preprocess", "executorch")
    manager: Any = preprocess.XNNPACKPassManager

    def busy(program: ExportedProgram, passes: list[type] | None = None) -> Any:
        """The manager with the passes that may find something in the program."""
        made = manager(program, passes)
        operations = " ".join(str(node.target) for node in program.graph.nodes if node.op == "call_function")
        made.passes = [
            one
            for one in made.passes
            if one.__name__ not in _PATTERNS or any(name in operations for name in _PATTERNS[one.__name__])
        ]
        return made

    preprocess.XNNPACKPassManager = busy
    try:
        yield
    finally:
        preprocess.XNNPACKPassManager = manager


# XNNPACK's graphs while they are lowered.


def graph_schema() -> ModuleType:
    """The dataclasses of XNNPACK's graphs: XNNGraph, XNode, XNNConv2d, ..."""
    return require(f"{_XNNPACK}.serialization.xnnpack_graph_schema", "executorch")


def no_value() -> int:
    """What stands for no value where a graph asks for the id of one."""
    return int(require(f"{_XNNPACK}.utils.xnnpack_constants", "executorch").XNN_INVALID_VALUE_ID)


def named_constant(size: int, name: str) -> Any:
    """An entry of a graph's constant data of `size` bytes that lie outside of the graph, under a name."""
    constants = require(f"{_XNNPACK}.utils.xnnpack_constants", "executorch")
    return graph_schema().ConstantDataOffset(constants.UINT64_MAX, size, name)


@contextmanager
def rewritten_graphs(rewrite: Callable[[Any, Any], None]) -> Iterator[None]:
    """While active, every XNNPACK graph goes through `rewrite(graph, store)` before it is serialized.

    store: a NamedDataStore with the bytes behind the graph's constants. ExecuTorch has no hook there, so the function
    and the store that its preprocessing calls are wrapped.
    """
    preprocess: Any = require(f"{_XNNPACK}.xnnpack_preprocess", "executorch")
    serialize = preprocess.serialize_xnnpack_binary
    store_type: Any = preprocess.NamedDataStore
    stores: list[Any] = []

    class RecordedStore(store_type):
        """The constants of the graph that is being made; preprocessing has no other way to them."""

        def __init__(self) -> None:
            super().__init__()
            stores.append(self)

    def changed(graph: Any, *arguments: Any) -> bytes:
        rewrite(graph, stores[-1])
        return serialize(graph, *arguments)

    preprocess.serialize_xnnpack_binary = changed
    preprocess.NamedDataStore = RecordedStore
    try:
        yield
    finally:
        preprocess.serialize_xnnpack_binary = serialize
        preprocess.NamedDataStore = store_type


def store_bytes(store: Any, name: str, data: bytes) -> None:
    """Put the bytes of a constant under a name of a NamedDataStore, aligned as XNNPACK asks for."""
    serialization = require(f"{_XNNPACK}.serialization.xnnpack_graph_serialize", "executorch")
    store.add_named_data(name, data, serialization.CONSTANT_TENSOR_ALIGNMENT)


def stored_bytes(store: Any, name: str) -> bytes:
    """The bytes under a name of a NamedDataStore, or of what a .pte file has of one."""
    return store.buffers[store.pte_data[name].buffer_index]


def keep_only(store: Any, names: Iterable[str]) -> None:
    """Forget all bytes of a NamedDataStore but those under these names; a store can only grow by itself."""
    from executorch.exir._serialize._named_data_store import NamedDataStore

    kept, wanted = NamedDataStore(), set(names)
    for name, entry in store.pte_data.items():
        if name in wanted:
            kept.add_named_data(name, store.buffers[entry.buffer_index], entry.alignment)
    store.__dict__.update(kept.__dict__)


# Files. ExecuTorch writes .pte files in public; how to read one back is its own affair.


@dataclass(frozen=True, slots=True)
class DelegateData:
    """XNNPACK's part of a file: the flatbuffer of a graph, and the constants that lie in it."""

    flatbuffer: bytes
    constants: bytes


def read_program(data: bytes) -> Any:
    """A .pte file as ExecuTorch's own classes: `program`, `named_data` or None."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(data)


def split_delegate(blob: bytes) -> DelegateData:
    """Take XNNPACK's part of a file apart."""
    header_type = require(f"{_XNNPACK}.serialization.xnnpack_graph_serialize", "executorch").XNNHeader
    header = header_type.from_bytes(blob[: header_type.EXPECTED_LENGTH])
    graph, constants = header.flatbuffer_offset, header.constant_data_offset
    return DelegateData(
        blob[graph : graph + header.flatbuffer_size], blob[constants : constants + header.constant_data_size]
    )


def join_delegate(parts: DelegateData) -> bytes:
    """Undo `split_delegate`."""
    serialization = require(f"{_XNNPACK}.serialization.xnnpack_graph_serialize", "executorch")
    align = serialization.CONSTANT_TENSOR_ALIGNMENT
    start = -(-serialization.XNNHeader.EXPECTED_LENGTH // align) * align
    after = start + -(-len(parts.flatbuffer) // align) * align
    header = serialization.XNNHeader(
        flatbuffer_offset=start,
        flatbuffer_size=len(parts.flatbuffer),
        constant_data_offset=after,
        constant_data_size=len(parts.constants),
    ).to_bytes()
    return header.ljust(start, b"\0") + parts.flatbuffer.ljust(after - start, b"\0") + parts.constants


def graph_schema_text() -> bytes:
    """The flatbuffer schema of XNNPACK's graphs."""
    return require(f"{_XNNPACK}.serialization.xnnpack_graph_serialize", "executorch")._get_schema_bytes()


def flatbuffer_to_json(schema: bytes, flatbuffer: bytes) -> dict[str, Any]:
    """A flatbuffer by its schema, with the flatc that ExecuTorch brings along."""
    from executorch.exir._serialize import _flatbuffer

    with tempfile.TemporaryDirectory() as folder:
        described, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        described.write_bytes(schema)
        binary.write_bytes(flatbuffer)
        _flatbuffer._flatc_decompile(folder, str(described), str(binary))
        return json.loads(Path(folder, "graph.json").read_text())


def json_to_flatbuffer(schema: bytes, document: dict[str, Any]) -> bytes:
    """Undo `flatbuffer_to_json`."""
    from executorch.exir._serialize import _flatbuffer

    with tempfile.TemporaryDirectory() as folder:
        described, text = Path(folder, "schema.fbs"), Path(folder, "schema.json")
        described.write_bytes(schema)
        text.write_text(json.dumps(document))
        _flatbuffer._flatc_compile(folder, str(described), str(text))
        return Path(folder, "schema.bin").read_bytes()


def delegate_program(edge: ExportedProgram, backend: str, blob: bytes) -> bytes:
    """A .pte file whose whole computation is one delegate's: the inputs and outputs are those of `edge`."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    return bytes(LoweredBackendModule(edge, backend, blob, []).buffer())
