"""Captures an nn.Module as a flat graph that the deploy passes can rewrite and that can still be trained."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, TypeGuard

from edgevit.compat.torch import quiet_tree_specs
from edgevit.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.export import ExportedProgram

_FUNCTIONAL = "edgevit.functional"  # key in the meta of a graph module


def example_input(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A standard normal float32 tensor, the same for the same seed."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def capture(
    module: nn.Module, inputs: tuple[Tensor, ...], name: str, *, dynamic_batch: bool = False
) -> ExportedProgram:
    """torch.export in eval mode with static shapes, or with a leading axis of any length if `dynamic_batch`.

    Raises ExportError with the cause in one line.
    """
    import torch

    batch = torch.export.Dim("batch")
    sizes = tuple({0: batch} for _ in inputs) if dynamic_batch else None
    try:
        with quiet_tree_specs(), torch.no_grad():
            return _own_input_names(torch.export.export(module.eval(), inputs, dynamic_shapes=sizes, strict=False))
    except Exception as error:  # torch.export raises many unrelated types; each means the same to the user
        raise ExportError(
            f"{name} cannot be captured: {_first_line(error)}",
            fix="remove Python control flow that depends on tensor values; --debug shows where",
        ) from error


def functional(exported: ExportedProgram) -> fx.GraphModule:
    """The captured graph as a module of functional ATen operations, its weights as attributes.

    In-place operations become functional, so that a rewrite may reorder and share; nodes keep their module paths.
    """
    from torch import fx

    with quiet_tree_specs():
        unlifted = to_functional(exported).module(check_guards=False)
    plain = fx.GraphModule(unlifted, unlifted.graph)  # export's own class refuses train() and eval()
    mark_functional(plain)
    return plain


def mark_functional(module: fx.GraphModule) -> None:
    """Mark a graph as one of functional ATen operations, as `functional` returns it."""
    module.meta[_FUNCTIONAL] = True


def is_functional(module: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Whether a module came from `functional`, or is a rewrite of such: its capture needs no decomposition."""
    return _FUNCTIONAL in getattr(module, "meta", {})


def to_functional(exported: ExportedProgram) -> ExportedProgram:
    """The same program in functional inference operations."""
    # An empty table: no op is broken up, in-place forms become functional, the training dialect ends.
    return _own_input_names(exported.run_decompositions({}))


def _own_input_names(exported: ExportedProgram) -> ExportedProgram:
    """The program, none of its inputs called like one of Python's built-ins, as `input` is.

    Copies of a graph rename those, and the program's signature would not follow.
    """
    taken = [node for node in exported.graph.find_nodes(op="placeholder") if hasattr(builtins, node.name)]
    for node in taken:
        own = f"{node.name}_"
        exported.graph_signature.replace_all_uses(node.name, own)
        node.name = node.target = own
    if taken:
        exported.graph_module.recompile()
    return exported


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
