"""A graph that was captured for one picture, for any number of them.

Rewrites and token views of a deployed graph count on a batch of one. So nothing is guessed about where a batch might
stand in them: every tensor that depends on the picture gets one more axis in front.
"""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING, Any

from edgevit.deploy.graph import is_call
from edgevit.errors import QuantizationError

if TYPE_CHECKING:
    from torch import Tensor, fx

_TOLERANCE = 1e-4
# Another order of summation may send a value on a grid to its neighbour.
ON_GRIDS = 0.1
_AXES = ("dim", "dims", "dim0", "dim1")  # arguments that count axes from the front
_SIZES = ("size", "shape")


def any_batch(one: fx.GraphModule, tolerance: float = _TOLERANCE) -> fx.GraphModule:
    """A copy of a graph from one picture (1, 3, S, S) to (1, ...) that maps (N, 3, S, S) to (N, ...).

    Raises QuantizationError if a batch of two does not give what its pictures give alone, up to `tolerance` of the
    largest answer.
    """
    import torch

    module = copy.deepcopy(one)
    _Batching(module.graph).run()
    module.graph.lint()
    module.recompile()
    (picture,) = (node for node in module.graph.nodes if node.op == "placeholder")
    pair = torch.randn(2, *picture.meta["val"].shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            together = module(pair)
        except RuntimeError as error:
            raise _cannot(str(error).splitlines()[0]) from error
        alone = torch.cat([one(pair[:1]), one(pair[1:])])
    error = (together - alone).abs().max() / alone.abs().max().clamp_min(1e-30)
    if not error <= tolerance:
        raise _cannot("a batch of two gives other answers than its pictures alone")
    return module


class _Batching:
    """One walk in execution order; `_batched` are the nodes with the new axis in front."""

    def __init__(self, graph: fx.Graph) -> None:
        import torch

        aten = torch.ops.aten
        self._graph = graph
        self._batched: set[fx.Node] = set()
        self._on_maps = {
            *(aten.conv2d.default, aten.max_pool2d.default, aten.avg_pool2d.default, aten.pixel_shuffle.default),
            *(aten.adaptive_avg_pool2d.default, aten.upsample_bilinear2d.vec, aten.upsample_nearest2d.vec),
            *(aten.pixel_unshuffle.default, aten._native_batch_norm_legit_no_training.default),
        }
        self._over_all = {aten.mean.default: aten.mean.dim, aten.sum.default: aten.sum.dim_IntList}

    def run(self) -> None:
        import torch

        aten = torch.ops.aten
        for node in list(self._graph.nodes):
            if node.op == "placeholder":
                self._batched.add(self._behind(node, aten.unsqueeze.default, 1))
            elif node.op == "output":
                for result in node.all_input_nodes:
                    node.replace_input_with(result, self._before(node, aten.flatten.using_ints, result, 0, 1))
            elif self._batched.intersection(node.all_input_nodes):
                self._batched.add(self._rewrite(node))

    def _rewrite(self, node: fx.Node) -> fx.Node:
        """Let a node compute with the axis; returns what its readers read from now on."""
        import torch

        aten = torch.ops.aten
        norm = aten._native_batch_norm_legit_no_training.default
        if is_call(node, operator.getitem) and is_call(node.args[0], norm):
            return self._behind(node, aten.unflatten.int, 0, [-1, 1])
        if node.op != "call_function" or node.target is operator.getitem:
            return node
        if node.target in self._on_maps:
            node.args = (self._before(node, aten.flatten.using_ints, node.args[0], 0, 1), *node.args[1:])
            # The norm gives a tuple; its first part follows.
            return node if is_call(node, norm) else self._behind(node, aten.unflatten.int, 0, [-1, 1])
        if is_call(node, aten.bmm.default):
            node.target = aten.matmul.default
        elif node.target in self._over_all:
            node.target, node.args = (
                self._over_all[node.target],
                (node.args[0], list(range(_rank(node.args[0]))), False),
            )
        elif is_call(node, aten.cat.default):
            node.args = ([self._joined(node, part) for part in node.args[0]], *node.args[1:])
        self._align(node)
        self._shift(node)
        return node

    def _shift(self, node: fx.Node) -> None:
        """Axes count from one further on, sizes get one more in front."""
        arguments = list(node.args)
        for position, declared in enumerate(node.target._schema.arguments[: len(arguments)]):
            value = arguments[position]
            if declared.name in _AXES:
                shifted = [axis + (axis >= 0) for axis in (value if isinstance(value, (list, tuple)) else [value])]
                permutes = node.target._schema.name.endswith("::permute")
                arguments[position] = [0] * permutes + shifted if isinstance(value, (list, tuple)) else shifted[0]
            elif declared.name in _SIZES:
                arguments[position] = [-1, *node.meta["val"].shape]
        node.args = tuple(arguments)

    def _align(self, node: fx.Node) -> None:
        """Operands of lower rank broadcast from behind: their axes of size 1 belong behind the new one."""
        import torch

        ranks = {source: _rank(source) for source in node.all_input_nodes if source in self._batched}
        if len(set(ranks.values())) < 2 or node.target._schema.name == "aten::matmul":
            return
        for source, rank in ranks.items():
            aligned = source
            for _ in range(max(ranks.values()) - rank):
                aligned = self._before(node, torch.ops.aten.unsqueeze.default, aligned, 1)
            if aligned is not source:
                node.replace_input_with(source, aligned)

    def _joined(self, node: fx.Node, part: fx.Node) -> fx.Node:
        """A part of a concatenation: a constant is repeated for each picture."""
        if part in self._batched:
            return part
        batch = next(source for source in node.args[0] if source in self._batched)
        return self._before(node, _repeated, part, batch)

    def _before(self, node: fx.Node, target: Any, *args: Any) -> fx.Node:
        with self._graph.inserting_before(node):
            return self._graph.call_function(target, args)

    def _behind(self, node: fx.Node, target: Any, *args: Any) -> fx.Node:
        with self._graph.inserting_after(node):
            call = self._graph.call_function(target, (node, *args))
        call.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
        return call


def _rank(node: fx.Node) -> int:
    """Axes for one picture."""
    return node.meta["val"].dim()


def _repeated(constant: Tensor, batch: Tensor) -> Tensor:
    return constant.expand(len(batch), *constant.shape)


def _cannot(reason: str) -> QuantizationError:
    return QuantizationError(f"the network cannot take several pictures at once: {reason}", hint="report the model")
