"""Which tensors of a deployed graph are quantized: one rule for all targets, before any calibration or training.

A convolution or linear layer reads and writes int8. Arithmetic, activations and averages join where everything that
they read is int8 already; they are float elsewhere, and so is what no delegate computes in int8 (softmax, products of
two computed tensors, the statistics of a LayerNorm). Data movement keeps the quantization parameters of its input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import Graph, argument, is_call, only_user, place, source_of

if TYPE_CHECKING:
    from torch import fx


_KEPT = "edgevit.annotation"  # key in the meta of a graph module
# The parts of an annotation, and the names that checkpoints of every version give them.
_STORED = {"weighted": "weighted", "integer": "integer", "quantized": "quantized", "kept_in_float": "floating"}


@dataclass(frozen=True, slots=True)
class Annotation:
    """The nodes of a graph by their part in the int8 network.

    weighted: convolutions and linear layers with learned weights. integer: other operations that read and write int8.
    quantized: nodes, the input among them, whose result is int8. shared: groups of them that must have the same
    quantization parameters, as concatenation, resizing and pooling need, by name. kept_in_float: what else computes.
    """

    weighted: tuple[fx.Node, ...]
    integer: tuple[fx.Node, ...]
    quantized: tuple[fx.Node, ...]
    shared: tuple[frozenset[str], ...]
    kept_in_float: tuple[fx.Node, ...]

    def float_fallback(self) -> dict[str, int]:
        """Count of operations kept in float, by module path."""
        counts: dict[str, int] = {}
        for node in self.kept_in_float:
            counts[place(node)] = counts.get(place(node), 0) + 1
        return counts

    def to_json(self) -> dict[str, list[Any]]:
        """By node names, as `keep_annotation` takes it."""
        parts = {key: [node.name for node in getattr(self, part)] for part, key in _STORED.items()}
        return parts | {"shared": [sorted(group) for group in self.shared]}


def annotate(graph: Graph, float_fallback: Collection[str] = ()) -> Annotation:
    """Decide for every operation of a deployed graph whether it computes in int8.

    float_fallback: names of nodes kept in float in any case; their users follow by the rule above.
    A graph that came with its annotation keeps it, as long as the same nodes are kept in float.
    """
    kept = graph.module.meta.get(_KEPT)
    if kept is not None and kept[1] == frozenset(float_fallback):
        nodes = {node.name: node for node in graph.module.graph.nodes}
        parts = {part: tuple(nodes[name] for name in kept[0][key]) for part, key in _STORED.items()}
        return Annotation(**parts, shared=tuple(map(frozenset, kept[0]["shared"])))
    return _Annotator(graph, float_fallback).run()


def keep_annotation(module: fx.GraphModule, names: Mapping[str, Any], float_fallback: Collection[str]) -> None:
    """Let `annotate` return this annotation, of `Annotation.to_json`, for the graph: later rules do not change it.

    Raises ValueError for a part that is missing, or a name that no node has.
    """
    known = {node.name for node in module.graph.nodes}
    parts = {key: list(names[key]) for key in (*_STORED.values(), "shared")}
    used = {name for key in _STORED.values() for name in parts[key]}
    used |= {name for group in parts["shared"] for name in group}
    if used - known:
        raise ValueError(f"no node {sorted(used - known)[0]!r}")
    module.meta[_KEPT] = parts, frozenset(float_fallback)


class _Annotator:
    def __init__(self, graph: Graph, float_fallback: Collection[str]) -> None:
        self._graph = graph
        self._float_fallback = float_fallback
        self._norms = norm_members(graph)
        self._kinds = _kinds()
        self._int8: set[fx.Node] = set()  # nodes whose result is int8 for every user

    def run(self) -> Annotation:
        weighted: list[fx.Node] = []
        integer: list[fx.Node] = []
        kept_in_float: list[fx.Node] = []
        computed: list[fx.Node] = []
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._int8.add(node)
                computed.append(node)
            if node.op != "call_function":
                continue
            kind = self._kind(node)
            if kind == "move":
                if all(source in self._int8 for source in self._sources(node)):
                    self._int8.add(node)
                continue
            computed.append(node)
            if kind == "float":
                kept_in_float.append(node)
                continue
            self._int8.add(node)
            (weighted if kind == "weighted" else integer).append(node)
        int8_users = {*weighted, *integer}
        qparams = [
            node
            for node in computed
            if not self._is_absorbed(node)
            and ((node in self._int8 and node.op != "placeholder") or self._readers(node) & int8_users)
        ]
        return Annotation(tuple(weighted), tuple(integer), tuple(qparams), self._shared(integer), tuple(kept_in_float))

    def _shared(self, integer: list[fx.Node]) -> tuple[frozenset[str], ...]:
        """Inputs and result of operations whose kernels do not rescale; groups with a member in common are one."""
        import torch

        aten = torch.ops.aten
        keeping = (aten.cat.default, aten.upsample_bilinear2d.vec, aten.avg_pool2d.default)
        groups: list[set[str]] = []
        for node in integer:
            if not is_call(node, *keeping):
                continue
            group = {node.name, *(origin(source).name for source in self._sources(node))}
            for other in [other for other in groups if other & group]:
                groups.remove(other)
                group |= other
            groups.append(group)
        return tuple(map(frozenset, groups))

    def _kind(self, node: fx.Node) -> str:
        """ "weighted", "integer", "move" or "float"."""
        kind = self._kinds.get(node.target, "float")
        if node in self._norms or (node.name in self._float_fallback and kind != "move"):
            return "float"
        if kind == "weighted":
            return kind if self._graph.value(node.args[1]) is not None else "float"
        if kind == "integer" and not all(source in self._int8 for source in self._sources(node)):
            return "float"
        if kind == "integer" and len(self._sources(node)) != len(_operands(node)):
            return "float"  # arithmetic with a constant
        return kind

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that are not constants."""
        return [source for source in node.all_input_nodes if source.op in ("placeholder", "call_function")]

    def _is_absorbed(self, node: fx.Node) -> bool:
        """Whether the kernel applies a fused activation: then the activation's result is quantized, not this one."""
        import torch

        aten = torch.ops.aten
        user = only_user(node)
        fusing = (aten.conv2d.default, aten.linear.default, aten.add.Tensor)
        return is_call(node, *fusing) and node in self._int8 and is_call(user, *fused_activations())

    def _readers(self, node: fx.Node) -> set[fx.Node]:
        """The users of a result, through data movement."""
        found: set[fx.Node] = set()
        for user in node.users:
            if is_move(user):
                found |= self._readers(user)
            else:
                found.add(user)
        return found


def fused_activations() -> tuple[Any, ...]:
    """The activations that a kernel applies to its own result by clamping it."""
    import torch

    aten = torch.ops.aten
    return aten.relu.default, aten.relu6.default, aten.hardtanh.default


def is_move(node: fx.Node) -> bool:
    """Whether an operation only moves or selects elements: its result has the quantization parameters of its input."""
    return node.op == "call_function" and _kinds().get(node.target) == "move"


def origin(node: fx.Node) -> fx.Node:
    """The node that computed the elements of a result, before any data movement."""
    while is_move(node):
        node = source_of(node)
    return node


def norm_members(graph: Graph) -> frozenset[fx.Node]:
    """The operations of every decomposed LayerNorm: means, centring, squares and the reciprocal root."""
    import torch

    aten = torch.ops.aten
    members: set[fx.Node] = set()
    for root in graph.calls(aten.rsqrt.default):
        variance = source_of(root)
        steps = [root]
        while is_call(variance, aten.add.Tensor, aten.reshape.default):
            steps.append(variance)
            variance = source_of(variance)
        squares = source_of(variance) if _is_mean(graph, variance) else None
        if not (is_call(squares, aten.mul.Tensor) and squares.args[0] is squares.args[1]):
            continue
        centred = source_of(squares)
        steps += [variance, squares, centred]
        if is_call(centred, aten.sub.Tensor):
            steps += [source for source in centred.all_input_nodes if _is_mean(graph, source)]
        members.update(steps)
        members.update(user for user in root.users if is_call(user, aten.mul.Tensor))
    return frozenset(members)


def _is_mean(graph: Graph, node: Any) -> bool:
    """Whether a node averages: a mean, or a product with equal weights that sum to one."""
    import torch

    aten = torch.ops.aten
    if is_call(node, aten.mean.dim):
        return True
    if not is_call(node, aten.conv2d.default, aten.linear.default):
        return False
    weight = graph.value(node.args[1])
    if weight is None or weight.shape[0] != 1:
        return False
    flat = weight.reshape(-1)
    return bool((flat == flat[0]).all()) and abs(float(flat.sum()) - 1) < 1e-3


def _operands(node: fx.Node) -> list[Any]:
    """The tensors or numbers that elementwise arithmetic reads; the one input of all else."""
    import torch

    aten = torch.ops.aten
    if is_call(node, aten.cat.default):
        return list(argument(node, 0))
    two = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)
    return list(node.args[:2]) if is_call(node, *two) else [node.args[0]]


@cache
def _kinds() -> dict[Any, str]:
    """What each operation may be; all else is float."""
    import torch

    aten = torch.ops.aten
    weighted = (aten.conv2d.default, aten.linear.default)
    integer = (
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.gelu.default,
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
        aten.hardswish.default,
        aten.sigmoid.default,
        aten.mean.dim,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.cat.default,
        aten.upsample_bilinear2d.vec,
    )
    moves = (
        aten.reshape.default,
        aten.view.default,
        aten.permute.default,
        aten.transpose.int,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.flatten.using_ints,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.clone.default,
        aten.max_pool2d.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.upsample_nearest2d.vec,
        aten.chunk.default,
        aten.split.Tensor,
    )
    return {
        **dict.fromkeys(weighted, "weighted"),
        **dict.fromkeys(integer, "integer"),
        **dict.fromkeys(moves, "move"),
    }
