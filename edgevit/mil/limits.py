"""How large a value may become: asked before an operation runs, because the program determines how much it takes.

Everything that a program declares is bounded when it is prepared. A parameter can still ask for more than was
declared (fill a shape, repeat, pad, enlarge, count up, broadcast), so the operations that can make a result larger
than their operands together state its elements here, from shapes and parameters alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from edgevit.errors import ContractError
from edgevit.mil.package import walk
from edgevit.mil.table import ints, number

if TYPE_CHECKING:
    from google.protobuf.message import Message

MAX_ELEMENTS = 1 << 28  # of one value: 1 GiB in float32, 64 channels of 2048 x 2048
MAX_ITERATIONS = 1 << 16  # of all loops of one prediction together

Arguments = Mapping[str, Any]
_SIZES: dict[str, Callable[[Arguments], float]] = {}


def require_declared(values: Iterable[Message], where: str) -> None:
    """Raise ContractError for a value (name and type) or a state whose declared shape has too many elements."""
    for value in values:
        declared = value.type.stateType.wrappedType if value.type.WhichOneof("type") == "stateType" else value.type
        sizes = [item.constant.size for item in declared.tensorType.dimensions]
        _require(_product(sizes), f"{where}, {value.name[:80]!r}")


def require_function(function: Message, block: Message, where: str) -> None:
    """`require_declared` for the inputs of a function and for all that its operations give, inner blocks included."""
    require_declared(function.inputs, where)
    for operation in walk(block):
        require_declared(operation.outputs, f"{where}, {operation.type}")


def require_result(kind: str, arguments: Arguments) -> None:
    """Raise ContractError if an operation with these operands would make a value of too many elements."""
    size = _SIZES.get(kind)
    if size is not None:
        _require(size(arguments), kind)


def require_iterations(count: int) -> None:
    """Raise ContractError once the loops of a prediction have iterated too often."""
    if count > MAX_ITERATIONS:
        raise ContractError(
            f"while_loop: more than {MAX_ITERATIONS} iterations in one prediction", fix="this is no image model"
        )


def _require(elements: float, what: str) -> None:
    if not elements <= MAX_ELEMENTS:  # not a number fails too
        raise ContractError(
            f"{what}: a value of {elements:.3g} elements, at most {MAX_ELEMENTS} are evaluated",
            fix="convert again; no image model needs this",
        )


def _size(*kinds: str) -> Callable[[Callable[[Arguments], float]], Callable[[Arguments], float]]:
    """Enter a function for operations of these types."""

    def enter(function: Callable[[Arguments], float]) -> Callable[[Arguments], float]:
        _SIZES.update(dict.fromkeys(kinds, function))
        return function

    return enter


def _product(sizes: Iterable[float]) -> float:
    """Of sizes as they may be written: a zero does not excuse the others, -1 may mean a size that is kept."""
    return math.prod(max(1, abs(size)) for size in sizes)


def _broadcast(*tensors: Any) -> float:
    """Elements of the broadcast of these operands; numbers count as scalars."""
    shapes = [tensor.shape[::-1] for tensor in tensors if isinstance(tensor, Tensor)]
    rank = max(map(len, shapes), default=0)
    return math.prod(max((shape[axis] for shape in shapes if axis < len(shape)), default=1) for axis in range(rank))


def _area(x: Tensor, rows: float, columns: float) -> float:
    """x with its last two axes replaced."""
    return _product(x.shape[:-2]) * max(abs(rows), x.shape[-2]) * max(abs(columns), x.shape[-1])


@_size(
    "add",
    "equal",
    "floor_div",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "not_equal",
    "pow",
    "real_div",
    "sub",
)
def _binary(a: Arguments) -> float:
    x, y = a["x"], a["y"]
    return x.numel() if x.shape == y.shape else _broadcast(x, y)  # nearly all have equal shapes


@_size("select")
def _select(a: Arguments) -> float:
    return _broadcast(a["cond"], a["a"], a["b"])


@_size("linear")
def _linear(a: Arguments) -> float:
    return _product(a["x"].shape[:-1]) * a["weight"].shape[0]


@_size("matmul")
def _matmul(a: Arguments) -> float:
    x, y = a["x"], a["y"]
    rows = x.shape[-1 if number(a.get("transpose_x", False)) else -2] if x.ndim > 1 else 1
    columns = y.shape[-2 if number(a.get("transpose_y", False)) else -1] if y.ndim > 1 else 1
    return _broadcast(x[..., :1, :1] if x.ndim > 1 else None, y[..., :1, :1] if y.ndim > 1 else None) * rows * columns


@_size("scaled_dot_product_attention")
def _attention(a: Arguments) -> float:
    query, key, value = a["query"], a["key"], a["value"]
    batch = _broadcast(query[..., :1, :1], key[..., :1, :1], value[..., :1, :1])
    return batch * query.shape[-2] * max(key.shape[-2], value.shape[-1])


@_size("einsum")
def _einsum(a: Arguments) -> float:
    """The result; products are summed out pair by pair, and a pair is never larger than all labels together."""
    terms, _, result = a["equation"].replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, value in zip(terms.split(","), a["values"], strict=True):
        for label, size in zip(term, value.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return _product(sizes[label] for label in (sizes if len(a["values"]) > 2 else result))


@_size("concat", "stack")
def _joined(a: Arguments) -> float:
    return sum(value.numel() for value in a["values"])


@_size("tile")
def _tile(a: Arguments) -> float:
    return a["x"].numel() * _product(ints(a["reps"]))


@_size("pad")
def _pad(a: Arguments) -> float:
    amounts = ints(a["pad"])
    added = [abs(before) + abs(after) for before, after in zip(amounts[::2], amounts[1::2], strict=True)]
    sizes = [0] * (a["x"].ndim - len(added)) + added
    return _product(size + more for size, more in zip(a["x"].shape, sizes, strict=True))


@_size("fill")
def _fill(a: Arguments) -> float:
    return _product(ints(a["shape"]))


@_size("range_1d")
def _range(a: Arguments) -> float:
    return abs((number(a["end"]) - number(a["start"])) / number(a["step"]))


@_size("one_hot")
def _one_hot(a: Arguments) -> float:
    return a["indices"].numel() * abs(number(a["one_hot_vector_size"]))


@_size("upsample_nearest_neighbor", "upsample_bilinear")
def _upsampled(a: Arguments) -> float:
    x = a["x"]
    factors = (number(a.get(f"scale_factor_{side}", 1)) for side in ("height", "width"))
    return _area(x, *(size * factor for size, factor in zip(x.shape[-2:], factors, strict=True)))


@_size("resize_nearest_neighbor", "resize_bilinear")
def _resized(a: Arguments) -> float:
    return _area(a["x"], *(number(a.get(f"target_size_{side}", 1)) for side in ("height", "width")))


@_size("resize")
def _resize(a: Arguments) -> float:
    """Axes are resized one after the other, so every one counts with the larger of its two sizes."""
    x, sizes = a["x"], ints(a["shape"])[-number(a["resized_dims"]) :]
    kept = x.shape[: x.ndim - len(sizes)]
    return _product(kept) * _product(max(pair) for pair in zip(x.shape[x.ndim - len(sizes) :], sizes, strict=True))


@_size("crop_resize")
def _crops(a: Arguments) -> float:
    """Each box takes a copy of its image first."""
    x, boxes = a["x"], a["roi"] if a.get("roi") is not None else a["boxes"]
    images = x.shape[0] if a.get("roi") is not None else 1
    target = _product(number(a.get(f"target_{side}", 1)) for side in ("height", "width"))
    return boxes.shape[0] * images * x.shape[1] * max(x.shape[-2] * x.shape[-1], target)


@_size("resample")
def _resample(a: Arguments) -> float:
    return _product(a["x"].shape[:2]) * _product(a["coordinates"].shape[1:3])


@_size("affine")
def _affine(a: Arguments) -> float:
    return 3 * _product([*a["x"].shape[:2], number(a["output_height"]), number(a["output_width"])])


@_size("conv", "max_pool", "avg_pool", "l2_pool")
def _padded(a: Arguments) -> float:
    """The padded input and, where pixels are unfolded for a product, as many channels as the kernel gives."""
    x, kernel = a["x"], ints(a.get("kernel_sizes")) or a["weight"].shape[2:]
    spacing = ints(a.get("dilations")) or [1] * len(kernel)
    amounts = ints(a.get("pad")) if a.get("pad_type") == "custom" else []
    by_window = (a.get("pad_type") != "valid" and not amounts) or number(a.get("ceil_mode", False))
    sides = []
    for axis, (size, window, gap) in enumerate(zip(x.shape[2:], kernel, spacing, strict=True)):
        before, after = amounts[2 * axis : 2 * axis + 2] or (0, 0)
        sides.append(size + abs(before) + abs(after) + (abs(window * gap) if by_window else 0))
    return x.shape[0] * _product(sides) * max(x.shape[1], a["weight"].shape[0] if "weight" in a else 1)


@_size("conv_transpose")
def _conv_transpose(a: Arguments) -> float:
    x, weight = a["x"], a["weight"]
    spatial = x.ndim - 2
    steps, spacing = (ints(a.get(key)) or [1] * spatial for key in ("strides", "dilations"))
    full = [
        (size - 1) * step + (window - 1) * gap + 1
        for size, step, window, gap in zip(x.shape[2:], steps, weight.shape[2:], spacing, strict=True)
    ]
    wanted = ints(a.get("output_shape"))[-spatial:]
    sides = [max(pair) for pair in zip(full, wanted or full, strict=True)]
    return x.shape[0] * weight.shape[1] * number(a.get("groups", 1)) * _product(sides)


@_size("space_to_batch")
def _space_to_batch(a: Arguments) -> float:
    top, bottom, left, right = ints(a["paddings"])
    height, width = a["x"].shape[-2:]
    return _area(a["x"], height + abs(top) + abs(bottom), width + abs(left) + abs(right))


@_size("sliding_windows")
def _windows(a: Arguments) -> float:
    return a["x"].numel() * abs(number(a["size"]))


@_size("gather")
def _gather(a: Arguments) -> float:
    x, indices = a["x"], a["indices"]
    axis, batch = number(a.get("axis", 0)) % x.ndim, number(a.get("batch_dims", 0))
    return x.numel() / max(1, x.shape[axis]) * _product(indices.shape[batch:])


@_size("gather_nd")
def _gather_nd(a: Arguments) -> float:
    x, indices, batch = a["x"], a["indices"], number(a.get("batch_dims", 0))
    return _product(indices.shape[:-1]) * _product(x.shape[batch + indices.shape[-1] :])


@_size("non_maximum_suppression")
def _suppressed(a: Arguments) -> float:
    """The table of overlaps of one sample, and the results."""
    boxes, classes = a["boxes"].shape, a["scores"].shape[-1]
    return max(2 * boxes[1] ** 2, boxes[0] * abs(number(a["max_boxes"])) * max(4, classes))


@_size("constexpr_lut_to_dense", "constexpr_sparse_to_dense")
def _dense(a: Arguments) -> float:
    """From iOS18 the packed tensor has the shape, before it a parameter has."""
    if a.get("shape") is not None:
        return _product(ints(a["shape"]))
    return a["indices"].numel() * a["lut"].shape[-1] if "lut" in a else a["mask"].numel()


@_size("constexpr_lut_to_sparse")
def _sparse(a: Arguments) -> float:
    return a["indices_mask"].numel() * a["lut"].shape[-1]


@_size("constexpr_affine_dequantize")
def _dequantized(a: Arguments) -> float:
    data = a["quantized_data"]
    return data.numel() * max(a["scale"].numel(), a["zero_point"].numel()) / max(1, data.shape[number(a["axis"])])
