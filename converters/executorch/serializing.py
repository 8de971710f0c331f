"""Where an XNNPACK graph is changed before it is written: the one place that reaches into its preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from converters.executorch.values import constant_fields

Rewrite = Callable[[Any, Any], None]  # of an XNNGraph, with the NamedDataStore behind its constants; both in place


@contextmanager
def rewritten(*rewrites: Rewrite) -> Iterator[None]:
    """While active, every XNNPACK graph that ExecuTorch serializes goes through the rewrites first, in this order.

    ExecuTorch has no hook there, so the function and the store that its preprocessing calls are wrapped.
    """
    from executorch.backends.xnnpack import xnnpack_preprocess

    serialize, store_type = xnnpack_preprocess.serialize_xnnpack_binary, xnnpack_preprocess.NamedDataStore
    stores: list[Any] = []

    class RecordedStore(store_type):
        """The constants of the graph that is being made; preprocessing has no other way to them."""

        def __init__(self) -> None:
            super().__init__()
            stores.append(self)

    def changed(graph: Any, *arguments: Any) -> bytes:
        for rewrite in rewrites:
            rewrite(graph, stores[-1])
        return serialize(graph, *arguments)

    xnnpack_preprocess.serialize_xnnpack_binary = changed
    xnnpack_preprocess.NamedDataStore = RecordedStore
    try:
        yield
    finally:
        xnnpack_preprocess.serialize_xnnpack_binary = serialize
        xnnpack_preprocess.NamedDataStore = store_type


def add_constant(graph: Any, store: Any, name: str, data: bytes, size: int) -> int:
    """Index of a new constant buffer of `size` bytes; `data`, stored once under its name, may go on behind them."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import CONSTANT_TENSOR_ALIGNMENT
    from executorch.backends.xnnpack.utils.xnnpack_constants import UINT64_MAX

    store.add_named_data(name, data, CONSTANT_TENSOR_ALIGNMENT)
    graph.constant_data.append(ConstantDataOffset(UINT64_MAX, size, name))
    return len(graph.constant_data) - 1


def stored_constant(graph: Any, store: Any, index: int) -> bytes:
    """The bytes behind a constant buffer's index, which is not 0."""
    constant = graph.constant_data[index]
    return store.buffers[store.pte_data[constant.named_key].buffer_index][: constant.size]


def drop_unused_constants(graph: Any, store: Any) -> None:
    """Forget the constant buffers that no value of the graph has any more, with their bytes."""
    used = sorted(index for part, field in constant_fields(graph) if (index := getattr(part, field)) > 0)
    places = {old: new for new, old in enumerate(dict.fromkeys([0, *used]))}  # the first stands for no constant
    for part, field in constant_fields(graph):
        setattr(part, field, places.get(getattr(part, field), getattr(part, field)))
    graph.constant_data[:] = [graph.constant_data[old] for old in places]
    named = {constant.named_key for constant in graph.constant_data}
    kept = type(store).__bases__[0]()
    for key in (key for key in store.pte_data if key in named):
        entry = store.pte_data[key]
        kept.add_named_data(key, store.buffers[entry.buffer_index], entry.alignment)
    store.__dict__.update(kept.__dict__)
