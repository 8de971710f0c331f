"""What a graph node is called in errors and reports: the module that it came from, and its operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that a graph node came from ("block1.0.attn"), or "" if it is not recorded."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return paths[-1].removeprefix("L['self'].") if paths else ""


def describe(node: fx.Node) -> str:
    """ "aten.convolution.default at block1.0.attn": what an error names."""
    where = module_path(node)
    return f"{node.target} at {where}" if where else str(node.target)
