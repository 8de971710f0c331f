"""Where an XNNPACK graph is changed before it is written, and the constants behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from converters.executorch.values import constant_fields
from edgevit.compat import executorch

Rewrite = Callable[[Any, Any], None]  # of an XNNGraph, with the NamedDataStore behind its constants; both in place


def rewritten(*rewrites: Rewrite) -> AbstractContextManager[None]:
    """While active, every XNNPACK graph that ExecuTorch serializes goes through the rewrites first, in this order."""

    def rewrite_all(graph: Any, store: Any) -> None:
        for rewrite in rewrites:
            rewrite(graph, store)

    return executorch.rewritten_graphs(rewrite_all)


def add_constant(graph: Any, store: Any, name: str, data: bytes, size: int) -> int:
    """Index of a new constant buffer of `size` bytes; `data`, stored once under its name, may go on behind them."""
    executorch.store_bytes(store, name, data)
    graph.constant_data.append(executorch.named_constant(size, name))
    return len(graph.constant_data) - 1


def stored_constant(graph: Any, store: Any, index: int) -> bytes:
    """The bytes behind a constant buffer's index, which is not 0."""
    constant = graph.constant_data[index]
    return executorch.stored_bytes(store, constant.named_key)[: constant.size]


def drop_unused_constants(graph: Any, store: Any) -> None:
    """Forget the constant buffers that no value of the graph has any more, with their bytes."""
    used = sorted(index for part, field in constant_fields(graph) if (index := getattr(part, field)) > 0)
    places = {old: new for new, old in enumerate(dict.fromkeys([0, *used]))}  # the first stands for no constant
    for part, field in constant_fields(graph):
        setattr(part, field, places.get(getattr(part, field), getattr(part, field)))
    graph.constant_data[:] = [graph.constant_data[old] for old in places]
    executorch.keep_only(store, {constant.named_key for constant in graph.constant_data})
