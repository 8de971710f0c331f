"""Graph: a captured network under rewriting. Every node knows its shape, every constant its value."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

from edgevit.graph.node_names import module_path

if TYPE_CHECKING:
    from torch import Tensor, fx
    from torch.fx.node import Argument


MAP_RANK = 4  # (N, C, H, W)


class Graph:
    """The functional ATen graph of a network, as `capture.functional` gives it, with what rewrites need.

    A node's shape is that of its meta["val"], a tensor on the meta device. Constants are parameters of
    `module`, behind get_attr nodes. A rewrite adds nodes with `call` and `constant`, swaps them with `replace`
    and calls `tidy` when it is done.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._erased: set[fx.Node] = set()
        for node in module.graph.nodes:
            if "val" in node.meta:
                node.meta["val"] = _on_meta(node.meta["val"])
            elif node.op == "get_attr":
                node.meta["val"] = _on_meta(self._attribute(node.target))

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The current nodes in execution order; nodes that a rewrite adds are left out, erased ones are skipped."""
        return (node for node in list(self.module.graph.nodes) if node not in self._erased)

    def calls(self, *targets: Any) -> Iterator[fx.Node]:
        """Those nodes that call one of the operations."""
        return (node for node in self.nodes if is_call(node, *targets))

    def value(self, node: Any) -> Tensor | None:
        """The tensor of a constant node, detached; None for anything else."""
        is_constant = hasattr(node, "op") and node.op == "get_attr"
        return self._attribute(node.target).detach() if is_constant else None

    def constant_value(self, node: Argument) -> Tensor:
        """The tensor of a node that is known to be constant, detached; TypeError for anything else."""
        value = self.value(node)
        if value is None:
            raise TypeError(f"{node} is no constant of the graph")
        return value

    def parameter(self, node: Argument) -> Tensor:
        """The tensor of a constant node itself, to be changed in place."""
        return self._attribute(str(node_of(node).target))

    def constant(self, value: Tensor, name: str) -> fx.Node:
        """A new parameter of the network, cast to float32; `name` may be a module path and is made unique."""
        import torch

        stem = name.replace(".", "_") or "constant"
        unique, count = stem, 1
        while hasattr(self.module, unique):
            unique, count = f"{stem}_{count}", count + 1
        self.module.register_parameter(unique, torch.nn.Parameter(value.float().contiguous(), requires_grad=False))
        first = next(iter(self.module.graph.nodes))
        with self.module.graph.inserting_before(first):
            node = self.module.graph.get_attr(unique)
        node.meta["val"] = _on_meta(value.float())
        return node

    def call(self, target: Any, *args: Any, like: fx.Node) -> fx.Node:
        """Insert a call before `like`, with the module path of `like`."""
        with self.module.graph.inserting_before(like):
            node = self.module.graph.call_function(target, args)
        node.meta["val"] = target(*_values(args))
        for key in ("nn_module_stack", "stack_trace"):
            if key in like.meta:
                node.meta[key] = like.meta[key]
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let every user of `old` read `new`, and erase nodes without users."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self._erase(old)

    def _erase(self, node: fx.Node) -> None:
        if node in self._erased or node.users or node.op != "call_function":
            return
        sources = node.all_input_nodes
        self.module.graph.erase_node(node)
        self._erased.add(node)
        for source in sources:
            self._erase(source)

    def rewrite_each(self, nodes: Iterable[fx.Node], rule: Callable[[fx.Node], bool]) -> list[str]:
        """Apply a rule, which returns whether it changed something, to every node, then tidy; the places it changed."""
        places = [place(node) for node in nodes if rule(node)]
        self.tidy()
        return places

    def tidy(self) -> None:
        """Drop nodes without users, and parameters that no node names."""
        self.module.graph.eliminate_dead_code()
        self.module.delete_all_unused_submodules()
        named = {node.target for node in self.module.graph.nodes if node.op == "get_attr"}
        for name in [name for name, _ in (*self.module.named_parameters(), *self.module.named_buffers())]:
            if name not in named:
                owner, _, attribute = name.rpartition(".")
                delattr(self.module.get_submodule(owner), attribute)
        self.module.graph.lint()
        self.module.recompile()

    def _attribute(self, target: str) -> Tensor:
        tensor: Tensor = operator.attrgetter(target)(self.module)
        return tensor


def node_of(argument: Argument) -> fx.Node:
    """A graph argument that its operation's schema makes a node; TypeError if this graph has something else there."""
    from torch import fx

    if not isinstance(argument, fx.Node):
        raise TypeError(f"a graph has {argument!r} where an operation reads a tensor")
    return argument


def source_of(node: fx.Node) -> fx.Node:
    """The first input of an operation."""
    return node_of(node.args[0])


def operation(node: fx.Node) -> Callable[..., Any]:
    """What a node calls; TypeError for a node that calls nothing."""
    if isinstance(node.target, str):
        raise TypeError(f"{node.name} calls nothing: it is {node.target}")
    return node.target


def is_call(node: Any, *targets: Any) -> TypeGuard[fx.Node]:
    """Whether a graph argument is a node that calls one of the operations."""
    return getattr(node, "op", None) == "call_function" and node.target in targets


def is_norm_result(node: Any) -> bool:
    """Whether a node is the normalised tensor among a BatchNorm's three results."""
    import torch

    norm = torch.ops.aten._native_batch_norm_legit_no_training.default
    return is_call(node, operator.getitem) and argument(node, 1) == 0 and is_call(node.args[0], norm)


def is_depthwise(conv: fx.Node) -> bool:
    """Whether a convolution has one kernel per channel: as many groups as channels, in and out."""
    outputs, inputs = shape(conv.args[1])[:2]
    return argument(conv, 6, 1) == outputs and inputs == 1


def is_random(node: fx.Node) -> bool:
    """Whether an operation draws random numbers: equal calls then differ, and no call is a constant."""
    import torch

    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def shape(node: Argument) -> tuple[int, ...]:
    """The shape of a node's result."""
    return tuple(node_of(node).meta["val"].shape)


def place(node: fx.Node) -> str:
    """The module path of a node, or its own name where none is recorded."""
    return module_path(node) or node.name


def argument(node: fx.Node, position: int, default: Any = None) -> Any:
    """A positional argument that may be left out; its type is that of the operation's schema."""
    return node.args[position] if len(node.args) > position else default


def only_user(node: fx.Node) -> fx.Node | None:
    """The only user of a node, None if there are several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def elements(node: fx.Node) -> int:
    """The number of elements of a node's result."""
    return math.prod(shape(node))


def _on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, (tuple, list)):
        return type(value)(_on_meta(item) for item in value)
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return value


def _values(argument: Any) -> Any:
    if isinstance(argument, (tuple, list)):
        return type(argument)(_values(item) for item in argument)
    return argument.meta["val"] if hasattr(argument, "meta") else argument
