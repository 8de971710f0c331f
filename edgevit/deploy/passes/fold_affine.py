"""Per-channel scales and shifts, folded into the convolutions and linear layers around them.

BatchNorm in eval mode, layer scale, a multiplication or addition of constants and the sums of residuals are
affine: each such result is a sum of scale * source over a few sources, plus a shift. So a chain of them is written
anew, with as few operations as its sources need:

- a convolution or linear layer that nothing else reads takes a scale into its weight and a shift into its bias;
- one that reads an affine result takes the scale and shift of its input;
- what is left becomes one multiplication per source and one addition between them.

VAN's norm1 feeds an attention branch and that branch's own shortcut: x + g * (norm(x) + f(norm(x))) becomes
k * x + f'(x) with k = 1 + g * a, a being the norm's scale. Folds are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgevit.graph.edit import Graph, argument, is_call, is_norm_result, node_of, only_user, place, shape, source_of

if TYPE_CHECKING:
    from torch import Tensor, fx

    from edgevit.deploy.cost_model import Costs


@dataclass
class Affine:
    """sum of scale * source, plus shift: float64 tensors that broadcast to the result; None is 1 or 0."""

    terms: dict[fx.Node, Tensor | None]
    shift: Tensor | None = None
    inside: list[fx.Node] = field(default_factory=list)  # the affine nodes it is made of, last first

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for source, scale in other.terms.items():
            terms[source] = scale if source not in terms else _sum(_one(terms[source]), _one(scale))
        shift = self.shift if other.shift is None else _sum(other.shift, self.shift)
        return Affine(terms, shift, self.inside + other.inside)

    def scaled(self, factor: Tensor) -> Affine:
        """factor * this."""
        terms: dict[fx.Node, Tensor | None] = {
            source: factor if scale is None else scale * factor for source, scale in self.terms.items()
        }
        return Affine(terms, None if self.shift is None else self.shift * factor, self.inside)


@dataclass(frozen=True)
class FoldAffine:
    """Writes every chain of affine operations in as few operations as its sources need."""

    name: str = "fold_affine"

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Returns the place of each affine operation folded away."""
        places = []
        for fold in (_into_producers, _into_users, _into_sums):  # in this order: each leaves less to the next
            places += fold(graph)
            graph.tidy()
        return places


FOLD_AFFINE = FoldAffine()


def _into_producers(graph: Graph) -> list[str]:
    """A chain that starts at a convolution or linear layer which nothing else reads becomes part of it."""
    places = []
    for node in graph.nodes:
        step = _step(graph, node)
        if step is None or len(step.terms) != 1:
            continue
        (source,) = step.terms
        if _reads_alone(node, source) and _absorb_output(graph, source, step.terms[source], step.shift):
            graph.replace(node, source)
            places.append(place(node))
    return places


def _into_users(graph: Graph) -> list[str]:
    """A convolution or linear layer that reads a scaled and shifted source reads the source itself."""
    places = []
    for node in graph.nodes:
        if not _is_product(node):
            continue
        affine = _expand(graph, source_of(node))
        if len(affine.terms) == 1 and affine.inside and _absorb_input(graph, node, affine):
            places += [place(inner) for inner in affine.inside]
    return places


def _into_sums(graph: Graph) -> list[str]:
    """Sums with constants among their operands are written anew where that takes fewer operations."""
    places: list[str] = []
    for node in graph.nodes:
        step, user = _step(graph, node), only_user(node)
        if step is None or (user is not None and _step(graph, user) is not None):
            continue  # part of a longer chain, which is looked at as a whole
        affine = _expand_step(graph, node, step)
        freed = _freed(node, affine)
        absorbing = [source for source in affine.terms if _can_absorb(graph, source, affine)]
        left = [s for s, scale in affine.terms.items() if scale is not None and s not in absorbing]
        shifted = affine.shift is not None and not absorbing
        if len(left) + len(affine.terms) - 1 + shifted >= sum(map(_operations, freed)):
            continue
        places += map(place, freed)
        graph.replace(node, _emit(graph, node, affine, absorbing))
    return places


def _freed(node: fx.Node, affine: Affine) -> list[fx.Node]:
    """The affine nodes without users once `node`, the last of them, is written anew."""
    freed: list[fx.Node] = []
    unread: set[fx.Node] = set()
    for inner in sorted(set(affine.inside), reverse=True):  # users before producers
        if inner is node or unread.issuperset(inner.users):
            freed.append(inner)
            unread |= {inner, source_of(inner)} if is_norm_result(inner) else {inner}
    return freed


def _emit(graph: Graph, node: fx.Node, affine: Affine, absorbing: list[fx.Node]) -> fx.Node:
    """The sum as operations in front of `node`; the first absorbing source takes the shift."""
    import torch

    aten = torch.ops.aten
    shift = affine.shift
    total = None
    for source, scale in affine.terms.items():
        term = source
        if source in absorbing:
            _absorb_output(graph, source, scale, shift)
            shift = None
        elif scale is not None:
            term = graph.call(aten.mul.Tensor, source, graph.constant(scale, f"{place(node)}_scale"), like=node)
        total = term if total is None else graph.call(aten.add.Tensor, total, term, like=node)
    if shift is not None:
        total = graph.call(aten.add.Tensor, total, graph.constant(shift, f"{place(node)}_shift"), like=node)
    assert total is not None  # a sum has terms
    return total


def _expand(graph: Graph, node: fx.Node) -> Affine:
    """`node` by its sources, through affine operations that need not exist on their own.

    A scaled and shifted source is seen through by every user; a sum only by its one user, since two
    users would compute it twice.
    """
    step = _step(graph, node)
    if step is None or (len(step.terms) > 1 and len(node.users) > 1):
        return Affine({node: None})
    return _expand_step(graph, node, step)


def _expand_step(graph: Graph, node: fx.Node, step: Affine) -> Affine:
    total = Affine({}, step.shift, [node])
    for source, scale in step.terms.items():
        inner = _expand(graph, source)
        total += inner if scale is None else inner.scaled(scale)
    return total


def _step(graph: Graph, node: fx.Node) -> Affine | None:
    """One affine operation over the nodes it reads; None if the node is no such operation."""
    import torch

    aten = torch.ops.aten
    if is_norm_result(node):
        return batch_norm(graph, source_of(node))
    if is_call(node, aten.neg.default):
        return Affine({source_of(node): torch.tensor(-1.0, dtype=torch.float64)})
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor) or node.kwargs:
        return None
    left, right = node.args[:2]
    constants = [_number(graph, operand) for operand in (left, right)]
    if is_call(node, aten.mul.Tensor, aten.div.Tensor):
        return _product(node, left, right, constants)
    sign = -1.0 if is_call(node, aten.sub.Tensor) else 1.0
    return _addition(node, left, right, constants, sign)


def _product(node: fx.Node, left: Any, right: Any, constants: list[Tensor | None]) -> Affine | None:
    import torch

    if constants[1] is not None and _keeps_shape(left, node):
        divides = is_call(node, torch.ops.aten.div.Tensor)
        return Affine({left: constants[1].reciprocal() if divides else constants[1]})
    if constants[0] is not None and is_call(node, torch.ops.aten.mul.Tensor) and _keeps_shape(right, node):
        return Affine({right: constants[0]})
    return None


def _addition(node: fx.Node, left: Any, right: Any, constants: list[Tensor | None], sign: float) -> Affine | None:
    import torch

    minus = None if sign > 0 else torch.tensor(-1.0, dtype=torch.float64)
    if constants[1] is not None and _keeps_shape(left, node):
        return Affine({left: None}, sign * constants[1])
    if constants[0] is not None and _keeps_shape(right, node):
        return Affine({right: minus}, constants[0])
    if any(constant is not None for constant in constants):
        return None
    if not (_keeps_shape(left, node) and _keeps_shape(right, node)):
        return None
    return Affine({left: None}) + Affine({right: minus})


def batch_norm(graph: Graph, norm: fx.Node) -> Affine | None:
    """A BatchNorm's scale and shift, (1, C, 1, 1) for feature maps: g (x - m) / sqrt(v + eps) + b; None if computed."""
    source, given, eps = source_of(norm), norm.args[1:5], argument(norm, 6)
    values = [graph.value(operand) for operand in given]
    if any(value is None and operand is not None for value, operand in zip(values, given, strict=True)):
        return None  # computed from the input
    gamma, beta, mean, variance = (None if value is None else value.double() for value in values)
    assert mean is not None  # a norm in inference has statistics
    assert variance is not None
    scale = (variance + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    per_channel = (1, -1) + (1,) * (len(shape(source)) - 2)
    return Affine({source: scale.reshape(per_channel)}, shift.reshape(per_channel))


def _number(graph: Graph, operand: Any) -> Tensor | None:
    """A constant operand in float64, None for a computed one."""
    import torch

    if isinstance(operand, (int, float)):
        return torch.tensor(float(operand), dtype=torch.float64)
    value = graph.value(operand)
    return None if value is None else value.double()


def _keeps_shape(operand: Any, node: fx.Node) -> bool:
    """Whether the operand is a computed float32 tensor of the result's shape."""
    import torch

    if not hasattr(operand, "meta") or operand.op == "get_attr" or shape(operand) != shape(node):
        return False
    return operand.meta["val"].dtype == node.meta["val"].dtype == torch.float32


def _operations(node: fx.Node) -> int:
    """What an affine node costs where nothing folds it: a norm is a multiplication and an addition."""
    return 2 if is_norm_result(node) else 1


def _reads_alone(node: fx.Node, source: fx.Node) -> bool:
    """Whether `source` has no user but `node`; a BatchNorm's result is read through its getitem."""
    user = only_user(source)
    return user is node or (user is not None and is_norm_result(node) and node.args[0] is user)


def _can_absorb(graph: Graph, source: fx.Node, affine: Affine) -> bool:
    """Whether a source of this sum could take its scale and the shift."""
    alone = any(_reads_alone(inner, source) for inner in affine.inside)
    per_channel = all(_per_channel(value, source) is not None for value in (affine.terms[source], affine.shift))
    return alone and _own_weight(graph, source) is not None and per_channel


def _absorb_output(graph: Graph, node: fx.Node, scale: Tensor | None, shift: Tensor | None) -> bool:
    """Make a convolution or linear layer give scale * result + shift; False if it cannot."""
    weight = _own_weight(graph, node)
    scale, shift = _per_channel(scale, node), _per_channel(shift, node)
    if weight is None or scale is None or shift is None:
        return False
    bias = _bias(graph, node)
    factor = _one(scale).expand(weight.shape[0])
    new_bias = bias * factor + (0.0 if shift is _NOTHING else shift)
    _set_weights(graph, node, weight * factor.reshape(-1, *[1] * (weight.dim() - 1)), new_bias)
    return True


def _absorb_input(graph: Graph, node: fx.Node, affine: Affine) -> bool:
    """Make a convolution or linear layer read the source of `affine`; False if it cannot."""
    import torch

    ((source, scale),) = affine.terms.items()
    weight = _own_weight(graph, node)
    scale, shift = _per_channel(scale, source_of(node), node), _per_channel(affine.shift, source_of(node), node)
    if weight is None or scale is None or shift is None:
        return False
    if shift is not _NOTHING and _pads(node):
        return False  # the zeros around the image are not shifted
    channels = shape(node.args[0])[_channel_axis(node)]
    groups = argument(node, 6, 1) if is_call(node, torch.ops.aten.conv2d.default) else 1
    # (O, I / groups, ...): output channel o reads the input channels of its own group.
    per_weight = [-1, weight.shape[1], *[1] * (weight.dim() - 2)]
    own = [value.expand(channels) if value is not _NOTHING else None for value in (scale, shift)]
    rows = [
        None
        if value is None
        else value.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0).reshape(per_weight)
        for value in own
    ]
    bias = _bias(graph, node)
    if rows[1] is not None:
        bias = bias + (weight * rows[1]).flatten(1).sum(1)
    _set_weights(graph, node, weight if rows[0] is None else weight * rows[0], bias)
    node.args = (source, *node.args[1:])
    return True


# Stands for "no scale" or "no shift" where None means "not per channel".
_NOTHING: Any = object()


def _per_channel(value: Tensor | None, node: fx.Node, product: fx.Node | None = None) -> Any:
    """A scale or shift as (C,) or (1,) on the channel axis of a product (default: `node` itself).

    _NOTHING for None; None if it varies along other axes.
    """
    if value is None:
        return _NOTHING
    rank = len(shape(node))
    axis = _channel_axis(product or node) % rank
    full = (1,) * (rank - value.dim()) + tuple(value.shape)
    varies = [position for position, size in enumerate(full) if size != 1]
    return value.flatten() if varies in ([], [axis]) else None


def _one(scale: Any) -> Tensor:
    import torch

    return torch.ones(1, dtype=torch.float64) if scale is None or scale is _NOTHING else scale


def _sum(first: Tensor, second: Tensor | None) -> Tensor:
    return first if second is None else first + second


def _is_product(node: fx.Node) -> bool:
    """Whether a node is a linear layer or a batched convolution; without a batch the channels lie on another axis."""
    import torch

    aten = torch.ops.aten
    return is_call(node, aten.linear.default) or (is_call(node, aten.conv2d.default) and len(shape(node)) == 4)


def _channel_axis(node: fx.Node) -> int:
    """Where a convolution's or linear layer's channels are, in its input and in its output."""
    import torch

    return -1 if is_call(node, torch.ops.aten.linear.default) else 1


def _pads(node: fx.Node) -> bool:
    """Whether a convolution reads zeros around its input."""
    import torch

    if is_call(node, torch.ops.aten.linear.default):
        return False
    padding = argument(node, 4, 0)
    return padding != 0 if isinstance(padding, int) else any(padding)


def _own_weight(graph: Graph, node: fx.Node) -> Tensor | None:
    """The weight of a convolution or linear layer in float64, None if it is computed or another layer's too."""
    if not _is_product(node) or len(node_of(node.args[1]).users) != 1:
        return None
    bias = argument(node, 2, None)
    if bias is not None and graph.value(bias) is None:
        return None
    weight = graph.value(node.args[1])
    return None if weight is None else weight.double()


def _bias(graph: Graph, node: fx.Node) -> Tensor:
    """The bias (O,) of a convolution or linear layer in float64, zeros if it has none."""
    import torch

    bias = argument(node, 2, None)
    channels = shape(node)[_channel_axis(node)]
    return torch.zeros(channels, dtype=torch.float64) if bias is None else graph.constant_value(bias).double()


def _set_weights(graph: Graph, node: fx.Node, weight: Tensor, bias: Tensor) -> None:
    """New constants, so that the weights of the captured network stay as they are."""
    name = place(node)
    constants = (graph.constant(weight, f"{name}_weight"), graph.constant(bias, f"{name}_bias"))
    node.args = (node.args[0], *constants, *node.args[3:])
