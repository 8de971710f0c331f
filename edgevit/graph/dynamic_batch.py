"""Turns a graph that was captured for one image into one for any number of images.

Rewrites and token views of a deployed graph rely on a batch of one, so the batch axis of each tensor follows from its
operation. Mostly it is the leading axis of size one that a tensor has already, as long as operations leave that axis in
place. Where a view drops it, moves heads in front of it or splits it, every tensor that depends on the image gets an
additional leading axis, until there is a leading axis of one again.
"""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import schema_of
from edgevit.errors import ExportError
from edgevit.graph.edit import argument, is_call, node_of, operation, shape

if TYPE_CHECKING:
    from torch import Tensor, fx

# Allowed difference of a batch from its images alone, relative to the largest output. Another order of summation may
# move a quantized value by one quantization step.
OUTPUTS, QDQ_OPS = 1e-4, 0.1
_AXES = ("dim", "dims", "dim0", "dim1", "start_dim", "end_dim")  # arguments that count axes from the front
_SIZES = ("size", "shape")


def any_batch(one: fx.GraphModule, tolerance: float = OUTPUTS) -> fx.GraphModule:
    """A copy of a graph from one image (1, 3, S, S) to (1, ...) that maps (N, 3, S, S) to (N, ...).

    Raises ExportError if a batch of two differs from its images alone by more than `tolerance` of the largest
    output.
    """
    import torch

    module = copy.deepcopy(one)
    _Batching(module.graph).run()
    module.graph.lint()
    module.recompile()
    (image,) = (node for node in module.graph.nodes if node.op == "placeholder")
    pair = torch.randn(2, *shape(image)[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            together = module(pair)
        except RuntimeError as error:
            raise _cannot(str(error).splitlines()[0]) from error
        alone = torch.cat([one(pair[:1]), one(pair[1:])])
    if together.shape != alone.shape:
        raise _cannot("a batch of two gives an answer of another shape")
    deviation = (together - alone).abs().max() / alone.abs().max().clamp_min(1e-30)
    if not deviation <= tolerance:
        raise _cannot("a batch of two gives other answers than its images alone")
    return module


def sum_alone(module: fx.GraphModule) -> None:
    """Make the sums in a graph of `any_batch` bit-exact with those of each image alone, in place.

    Kernels sum in another order for several images.
    """
    import torch

    aten = torch.ops.aten
    summing = {
        *(aten.linear.default, aten.conv2d.default, aten.matmul.default, aten.bmm.default, aten.mm.default),
        *(aten.softmax.int, aten._softmax.default, aten.layer_norm.default, aten.scaled_dot_product_attention.default),
        *(aten.mean.dim, aten.sum.dim_IntList, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default),
    }
    depending: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.op != "placeholder" and not depending.intersection(node.all_input_nodes):
            continue
        depending.add(node)
        if not is_call(node, *summing):
            continue
        parted = [argument in depending for argument in node.args]
        with module.graph.inserting_before(node):
            arguments: Any = (operation(node), parted, *node.args)  # torch's stub declares no functions among them
            call = module.graph.call_function(_each_alone, arguments, node.kwargs)
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
        depending.add(call)
    module.recompile()


def _each_alone(operation: Any, parted: list[bool], *args: Any, **kwargs: Any) -> Tensor:
    """An operation on one image after the other. parted: which of its arguments have a leading batch axis."""
    import torch

    count = next(len(arg) for arg, parts in zip(args, parted, strict=True) if parts)
    columns = [arg.split(1) if parts else [arg] * count for arg, parts in zip(args, parted, strict=True)]
    return torch.cat([operation(*row, **kwargs) for row in zip(*columns, strict=True)])


class _Batching:
    """One walk in execution order.

    `_riding`: nodes whose own leading axis of one is the batch axis now, (N, ...) for (1, ...).
    `_fronted`: nodes with an additional leading batch axis, (N, k, ...) for (k, ...).
    """

    def __init__(self, graph: fx.Graph) -> None:
        import torch

        aten = torch.ops.aten
        self._graph = graph
        self._riding: set[fx.Node] = set()
        self._fronted: set[fx.Node] = set()
        self._spread: dict[fx.Node, fx.Node] = {}
        self._norm = aten._native_batch_norm_legit_no_training.default
        self._on_maps = {
            *(aten.conv2d.default, aten.max_pool2d.default, aten.avg_pool2d.default, aten.pixel_shuffle.default),
            *(aten.adaptive_avg_pool2d.default, aten.upsample_bilinear2d.vec, aten.upsample_nearest2d.vec),
            *(aten.pixel_unshuffle.default, aten.conv_transpose2d.input, aten.group_norm.default, self._norm),
            aten.prelu.default,  # its slopes belong to the channels, the second axis
        }
        self._over_all = {aten.mean.default: aten.mean.dim, aten.sum.default: aten.sum.dim_IntList}
        self._views = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}

    def run(self) -> None:
        import torch

        for node in list(self._graph.nodes):
            if node.op == "placeholder":
                self._riding.add(node)
            elif node.op == "output":
                for result in self._fronted.intersection(node.all_input_nodes):
                    flat = self._before(node, torch.ops.aten.flatten.using_ints, result, 0, 1)
                    node.replace_input_with(result, flat)
            elif self._depending(node) and "val" in node.meta:  # others assert what is known: types of one image
                self._rewrite(node)

    def _depending(self, node: fx.Node) -> list[fx.Node]:
        """The sources of a node that depend on the image."""
        return [source for source in node.all_input_nodes if source in self._riding or source in self._fronted]

    def _rewrite(self, node: fx.Node) -> None:
        """Make a node compute for any number of images."""
        if is_call(node, *self._views):
            self._view(node)
        elif self._rides(node):
            self._ride(node)
        elif is_call(node, operator.getitem):
            self._settle(node)
        elif is_call(node, *self._on_maps):
            self._fold(node)
        else:
            self._front(node)

    def _view(self, node: fx.Node) -> None:
        """A view may go from either form to either form; after a permutation of axes it may have to copy."""
        import torch

        size, rides = shape(node), shape(node)[:1] == (1,)
        node.target = torch.ops.aten.reshape.default
        node.args = (node.args[0], [-1, *(size[1:] if rides else size)])
        (self._riding if rides else self._fronted).add(node)

    def _rides(self, node: fx.Node) -> bool:
        """Whether the images are on the leading axis of all sources, and the operation leaves them there."""
        import torch

        aten = torch.ops.aten
        depending = self._depending(node)
        if not self._riding.issuperset(depending):
            return False
        if is_call(node, operator.getitem) or is_call(node, *self._on_maps):
            return depending == [node.args[0]]
        result = node.meta["val"]
        if isinstance(result, torch.Tensor) and shape(node)[:1] != (1,):
            return False
        if node.op != "call_function" or "quantize" in schema_of(node.target).name:
            return True
        if is_call(node, aten.linear.default, aten.mm.default):
            return depending == [node.args[0]] and _rank(node) > 1
        if is_call(node, aten.matmul.default, aten.bmm.default, aten.scaled_dot_product_attention.default):
            left = depending == [node.args[0]] and len(node.args) == 2
            return all(_rank(source) == _rank(node) for source in depending) and (_rank(node) > 2 or left)
        if is_call(node, aten.layer_norm.default):
            return _rank(node) > len(argument(node, 1))
        if is_call(node, aten.constant_pad_nd.default):
            return _rank(node) > len(argument(node, 1)) // 2
        if is_call(node, aten.index.Tensor):
            return depending == [node.args[0]] and argument(node, 1)[0] is None
        axes = _axes(node)
        if axes is not None:
            return axes[0] == 0 if is_call(node, aten.permute.default) else bool(axes) and 0 not in axes
        keeps = is_call(node, aten.expand.default, aten.clone.default, aten._to_copy.default, aten.alias.default)
        same_rank = all(_rank(source) == _rank(node) for source in depending)
        return (keeps or torch.Tag.pointwise in getattr(node.target, "tags", ())) and same_rank

    def _ride(self, node: fx.Node) -> None:
        import torch

        aten = torch.ops.aten
        self._riding.add(node)
        if is_call(node, aten.expand.default):
            node.args = (node.args[0], [-1, *argument(node, 1)[1:]])
        elif is_call(node, aten.bmm.default) and len(self._depending(node)) == 1:
            node.target = aten.matmul.default  # which broadcasts the other operand
        elif is_call(node, aten.cat.default):
            self._repeat_constants(node, _repeated_on_axis)

    def _fold(self, node: fx.Node) -> None:
        """Several feature maps per image, (N, k, C, H, W), become (N * k, C, H, W) for operations on feature maps."""
        import torch

        aten = torch.ops.aten
        source = self._front_form(node_of(node.args[0]))
        node.args = (self._before(node, aten.flatten.using_ints, source, 0, 1), *node.args[1:])
        results = [node]
        if is_call(node, self._norm):  # gives a tuple
            results = [user for user in node.users if is_call(user, operator.getitem)]
        for result in results:
            self._fronted.add(
                self._behind(result, aten.unflatten.int, 0, [-1, shape(node_of(node.args[0]).args[0])[0]])
            )

    def _front(self, node: fx.Node) -> None:
        """Compute with an additional leading axis, until a leading axis of one can be the batch axis again."""
        import torch

        aten = torch.ops.aten
        for source in self._depending(node):
            node.replace_input_with(source, self._front_form(source))
        if is_call(node, aten.bmm.default):
            node.target = aten.matmul.default
        elif node.target in self._over_all:
            node.target, node.args = (
                self._over_all[node.target],
                (node.args[0], list(range(_rank(node_of(node.args[0])))), False),
            )
        elif is_call(node, aten.cat.default):
            self._repeat_constants(node, _repeated_in_front)
        elif is_call(node, aten.index.Tensor):
            node.args = (node.args[0], [None, *argument(node, 1)])
        if node.op == "call_function":
            self._align(node)
            self._shift(node)
        self._settle(node)

    def _settle(self, node: fx.Node) -> None:
        """Take an additional leading axis away again where the axis behind it is one of size one."""
        import torch

        if isinstance(node.meta["val"], torch.Tensor) and shape(node)[:1] == (1,):
            self._riding.add(self._behind(node, torch.ops.aten.flatten.using_ints, 0, 1))
        else:
            self._fronted.add(node)

    def _front_form(self, source: fx.Node) -> fx.Node:
        """The node that holds a result as (N, k, ...)."""
        import torch

        if source in self._fronted:
            return source
        if source not in self._spread:
            with self._graph.inserting_after(source):
                spread = self._graph.call_function(torch.ops.aten.unflatten.int, (source, 0, [-1, 1]))
            spread.meta["val"] = source.meta["val"]
            self._spread[source] = spread
            self._fronted.add(spread)
        return self._spread[source]

    def _shift(self, node: fx.Node) -> None:
        """Shift axes by one, and prepend the batch to sizes."""
        declarations = schema_of(node.target).arguments
        named = [position for position, declared in enumerate(declarations) if declared.name in _AXES]
        spelled = max([len(node.args), *(position + 1 for position in named)])
        arguments = [_positional(node, position) for position in range(spelled)]
        for position, declared in enumerate(declarations[:spelled]):
            value = arguments[position]
            if declared.name in _AXES and value is not None:
                shifted = [axis + (axis >= 0) for axis in (value if isinstance(value, (list, tuple)) else [value])]
                permutes = schema_of(node.target).name.endswith("::permute")
                arguments[position] = [0] * permutes + shifted if isinstance(value, (list, tuple)) else shifted[0]
            elif declared.name in _SIZES:
                arguments[position] = [-1, *shape(node)]
        node.args = tuple(arguments)

    def _align(self, node: fx.Node) -> None:
        """Operands of lower rank broadcast from the last axis: their axes of size 1 belong after the batch axis."""
        import torch

        ranks = {source: _rank(source) for source in node.all_input_nodes if source in self._fronted}
        if len(set(ranks.values())) < 2 or schema_of(node.target).name == "aten::matmul":
            return
        for source, rank in ranks.items():
            aligned = source
            for _ in range(max(ranks.values()) - rank):
                aligned = self._before(node, torch.ops.aten.unsqueeze.default, aligned, 1)
            if aligned is not source:
                node.replace_input_with(source, aligned)

    def _repeat_constants(self, node: fx.Node, repeated: Any) -> None:
        """Repeat the constant parts of a concatenation for each image."""
        batch = self._depending(node)[0]
        parts = [
            part
            if part in self._riding or part in self._fronted
            else self._before(node, repeated, part, batch)
            for part in argument(node, 0)
        ]  # fmt: skip
        node.args = (parts, *node.args[1:])

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
    """Axes for one image."""
    return node.meta["val"].dim()


def _axes(node: fx.Node) -> list[int] | None:
    """The axes that an operation names, counted from the front; None if it takes no such argument."""
    positions = [
        position for position, declared in enumerate(schema_of(node.target).arguments) if declared.name in _AXES
    ]
    if not positions:
        return None
    values = [_positional(node, position) for position in positions]
    first = argument(node, 0)
    first = first[0] if isinstance(first, (list, tuple)) else first
    ranks = [part.meta["val"].dim() for part in (first, node) if hasattr(part.meta["val"], "dim")]
    flat = [axis for value in values for axis in (value if isinstance(value, (list, tuple)) else [value])]
    return [axis + max(ranks) * (axis < 0) for axis in flat if axis is not None]


def _positional(node: fx.Node, position: int) -> Any:
    """An argument of an operation, its default where it is left out."""
    return argument(node, position, schema_of(node.target).arguments[position].default_value)


def _repeated_in_front(constant: Tensor, batch: Tensor) -> Tensor:
    return constant.expand(batch.shape[0], *constant.shape)


def _repeated_on_axis(constant: Tensor, batch: Tensor) -> Tensor:
    return constant.expand(batch.shape[0], *constant.shape[1:])


def _cannot(reason: str) -> ExportError:
    return ExportError(f"the network cannot take several images at once: {reason}", fix="report the model")
