"""Matrix products: linear layers and attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from converters.tflite.builder import Builder, Unsupported
from converters.tflite.layout import Order, Shape, Value, identity, moves_data, stored, with_last
from converters.tflite.ops.axes import transpose
from converters.tflite.ops.reductions import softmax
from converters.tflite.registry import lowers

if TYPE_CHECKING:
    import torch


@lowers("linear.default")
def linear(b: Builder, x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Value:
    """x (..., I), weight (O, I) -> (..., O): FULLY_CONNECTED over the innermost axis."""
    if not is_constant(weight) or not is_constant(bias):
        raise Unsupported("a weight that is computed")
    last = len(x.shape) - 1
    if x.order[-1] != last:
        x = b.relaid(x, with_last(x.order, last))
    shape = (*x.shape[:-1], weight.shape[0])
    inputs = [x.tensor, b.laid(weight, (0, 1)), bias_tensor(b, bias, weight.shape[0])]
    tensor = b.emit("FULLY_CONNECTED", inputs, stored(shape, x.order), {"keepNumDims": len(shape) != 2})
    return Value(tensor, shape, x.order)


@lowers("addmm.default")
def _addmm(b: Builder, bias: torch.Tensor, x: Value, weight: torch.Tensor) -> Value:
    if not is_constant(weight):
        raise Unsupported("a weight that is computed")
    return linear(b, x, weight.T, bias)


@lowers("bmm.default", "matmul.default", "mm.default")
def matmul(b: Builder, left: Value | torch.Tensor, right: Value | torch.Tensor) -> Value:
    """left (..., M, K) @ right (..., K, N), either as it lies: the operator can take its second operand transposed.

    The product is made as it is, or as its transpose (right^T @ left^T) with the axes relabelled: whichever moves
    fewer elements, counting those of a softmax that follows.
    """
    if isinstance(left, Value) and not isinstance(right, Value) and right.dim() == 2:
        return linear(b, left, right.T)
    left, right = b.value(left), b.value(right)
    rank = len(left.shape)
    if rank != len(right.shape) or rank < 2 or left.shape[:-2] != right.shape[:-2]:
        raise Unsupported(f"a product of {left.shape} and {right.shape}")
    shape = left.shape[:-1] + right.shape[-1:]
    straight, swapped = identity(rank), (*identity(rank)[:-2], rank - 1, rank - 2)
    wanted = _softmax_axis(b.lowered, rank)

    def elements_moved(first: Value, first_order: Order, second: Value, product_order: Order) -> int:
        moves = math.prod(first.shape) * moves_data(first.shape, first.order, first_order)
        moves += math.prod(second.shape) * all(moves_data(second.shape, second.order, o) for o in (straight, swapped))
        return moves + math.prod(shape) * (wanted not in (None, product_order[-1]))

    plain = elements_moved(left, straight, right, straight)
    turned = elements_moved(right, swapped, left, swapped)
    if plain <= turned:
        return Value(_product(b, left, straight, right, swapped, stored(shape, straight)), shape, straight)
    return Value(_product(b, right, swapped, left, straight, stored(shape, swapped)), shape, swapped)


def _product(b: Builder, first: Value, order: Order, second: Value, turned: Order, shape: Shape) -> int:
    """BATCH_MATMUL of `first` stored under `order` and `second`, which may lie under `turned` (then adjY) or not."""
    plain = (*turned[:-2], turned[-1], turned[-2])
    adjoint = not moves_data(second.shape, second.order, turned) and moves_data(second.shape, second.order, plain)
    inputs = [b.relaid(first, order).tensor, b.relaid(second, turned if adjoint else plain).tensor]
    return b.emit("BATCH_MATMUL", inputs, shape, {"adjX": False, "adjY": adjoint})


def _softmax_axis(node: Any, rank: int) -> int | None:
    """Logical axis of the node's result that a softmax behind it runs over; None if there is none."""
    axes = list(range(rank))
    while len(node.users) == 1:
        (node,) = node.users
        if str(node.target) == "aten.transpose.int":
            first, second = node.args[1:]
            axes[first], axes[second] = axes[second], axes[first]
        elif str(node.target) in ("aten.softmax.int", "aten._softmax.default"):
            return axes[node.args[1]]
        elif str(node.target) not in ("aten.mul.Tensor", "aten.div.Tensor", "aten.add.Tensor", "aten.clone.default"):
            return None
    return None


@lowers("scaled_dot_product_attention.default")
def _attention(
    b: Builder, query: Value, key: Value, value: Value, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    if causal or enable_gqa:
        raise Unsupported("causal or grouped-query attention")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = matmul(b, b.binary("MUL", query, factor), transpose(b, key, -2, -1))
    if mask is not None:
        scores = b.binary("ADD", scores, mask)
    return matmul(b, softmax(b, scores, -1), value)


def is_constant(operand: Any) -> bool:
    """Whether an argument is known now: a weight, or absent."""
    return not isinstance(operand, Value)


def bias_tensor(b: Builder, bias: torch.Tensor | None, size: int) -> int:
    """Index of a bias (size,); zeros if there is none, since delegates expect one."""
    import torch

    return b.laid(torch.zeros(size) if bias is None else bias, (0,))
