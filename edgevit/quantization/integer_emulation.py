"""An int8 program in integer arithmetic emulated exactly in float32, for runtimes without integer kernels.

Q/DQ pairs around float arithmetic leave it to chance how a value near the middle of two quantization steps is rounded,
and in a deep network these errors accumulate (see `integer_arithmetic`). Here convolutions and linear layers sum
products of integers, which float32 holds up to 2^24, with an integer bias, and are rescaled by one float32 factor, half
to even; sums and bilinear upsampling have fixed-point factors, half up: what XNNPACK computes, operation by operation.
Any runtime that multiplies and adds in float32 is then bit-exact; only a sum beyond 2^24, which takes thousands of
products at the ends of their range, is rounded. Scales stand at the quantize nodes as always; the dequantize nodes of
these kernels have a scale of one and so give integers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from edgevit.compat.torch import qdq_operations
from edgevit.graph.edit import argument, is_call, node_of, only_user, source_of
from edgevit.quantization.annotation import fused_activations
from edgevit.quantization.integer_arithmetic import RESIZE_BITS, fixed_point, neighbours, whole_bias
from edgevit.quantization.qparams import HIGH, LOW, WEIGHT_HIGH, WEIGHT_LOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.export import ExportedProgram

_KERNEL = "whole_"  # prefix of the names of the modules that compute in integers
_HALF, _BYTE = 2**11, 2**8  # factors and differences are split here, so that float32 holds the products of either part

_quantized, _aten = qdq_operations(), torch.ops.aten

_QParams = tuple[float, int]  # scale and zero point


def emulate_integers(exported: ExportedProgram) -> ExportedProgram:
    """The program with an emulated integer kernel for every operation from int8 to int8; the others stay."""
    return _rewritten(exported)[1]


def named_emulated_integers(exported: ExportedProgram) -> tuple[ExportedProgram, dict[str, str]]:
    """`emulate_integers`, and the new names of the nodes: those that stay, and the results of the kernels."""
    module, whole = _rewritten(exported)
    return whole, _new_names(module, whole)


def _rewritten(exported: ExportedProgram) -> tuple[fx.GraphModule, ExportedProgram]:
    """The graph with the kernels as modules, and the program exported from it."""
    module = exported.module(check_guards=False)
    for node in list(module.graph.nodes):
        kernel = _kernel(module, node)
        if kernel is None:
            continue
        name = f"{_KERNEL}{node.name}"
        module.add_submodule(name, kernel)
        stored = tuple(one.args[0] for one in node.args if _is_read(one))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.call_module(name, stored))
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    with torch.no_grad():
        return module, torch.export.export(module, exported.example_inputs[0])


def _new_names(module: fx.GraphModule, whole: ExportedProgram) -> dict[str, str]:
    """What the nodes of a module with kernels are called in the program exported from it, which keeps their order."""
    names, stayed = {}, []
    for node in whole.graph.nodes:
        if node.op == "call_function":
            owner = list(node.meta["nn_module_stack"].values())[-1][0]  # path of the innermost module
            if owner.startswith(_KERNEL):
                names[owner.removeprefix(_KERNEL)] = node.name  # the last one is the kernel's result
            else:
                stayed.append(node.name)
    known = (node.name for node in module.graph.nodes if node.op == "call_function")
    return names | dict(zip(known, stayed, strict=True))


def _kernel(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that computes a node in integers; None for a node that reads or writes floats."""
    result = _written_scale(node)
    if result is None or node.kwargs:
        return None
    if is_call(node, _aten.conv2d.default, _aten.linear.default):
        source, weight = source_of(node), node.args[1]
        if not _is_read(source) or not is_call(weight, _quantized.dequantize_per_channel.default):
            return None
        values, scales = (_constant(module, node_of(one)) for one in weight.args[:2])
        bias = argument(node, 2)
        constants = values, scales, None if bias is None else _constant(module, bias)
        return _Weighted(node.target, _qparams(source), result, constants, node.args[3:])
    if is_call(node, _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor) and all(map(_is_read, node.args)):
        first, second = (_qparams(node_of(read)) for read in node.args)
        if node.target is _aten.mul.Tensor:
            return _Product(first, second, result)
        return _Sum(first, second, result, sign=1 if node.target is _aten.add.Tensor else -1)
    if is_call(node, _aten.upsample_bilinear2d.vec) and _is_read(node.args[0]):
        source = source_of(node)
        return _Growth(source.meta["val"].shape, node.meta["val"].shape, _qparams(source), argument(node, 2))
    return None


def _is_read(node: Any) -> bool:
    return is_call(node, _quantized.dequantize_per_tensor.default)


def _qparams(read: fx.Node) -> _QParams:
    return argument(read, 1), argument(read, 2)


def _written_scale(node: fx.Node) -> float | None:
    """The scale that a result is quantized with, behind any fused activation; None if it stays float."""
    user = only_user(node)
    if is_call(user, *fused_activations()):
        user = only_user(user)
    return argument(user, 1) if is_call(user, _quantized.quantize_per_tensor.default) else None


def _constant(module: fx.GraphModule, node: fx.Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name).detach()


def _steps(stored: Tensor, zero_point: int) -> Tensor:
    """An int8 tensor minus its zero point, in float32."""
    return _quantized.dequantize_per_tensor.default(stored, 1.0, zero_point, LOW, HIGH, torch.int8)


class _Weighted(nn.Module):
    """A convolution or linear layer. constants: its values, their scales, and a bias or none."""

    values: Tensor
    bias: Tensor | None
    factor: Tensor

    def __init__(
        self,
        operation: Any,
        qparams: _QParams,
        result: float,
        constants: tuple[Tensor, Tensor, Tensor | None],
        rest: Sequence[Any],
    ) -> None:
        super().__init__()
        values, scales, bias = constants
        data, self._zero_point = qparams
        self._operation, self._result, self._rest = operation, result, tuple(rest)
        self.register_buffer("values", values)
        self.register_buffer("bias", None if bias is None else whole_bias(bias, scales.double() * data).float())
        factor = scales * torch.tensor(data) / torch.tensor(result)
        self.register_buffer("factor", factor.reshape(-1, 1, 1) if operation is _aten.conv2d.default else factor)

    def forward(self, stored: Tensor) -> Tensor:
        weight = _quantized.dequantize_per_tensor.default(self.values, 1.0, 0, WEIGHT_LOW, WEIGHT_HIGH, torch.int8)
        summed = self._operation(_steps(stored, self._zero_point), weight, self.bias, *self._rest)
        return (summed * self.factor).round() * self._result


class _Product(nn.Module):
    def __init__(self, first: _QParams, second: _QParams, result: float) -> None:
        super().__init__()
        self._zero_points, self._result = (first[1], second[1]), result
        self._factor = float(torch.tensor(first[0]) * torch.tensor(second[0]) / torch.tensor(result))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = map(_steps, (first, second), self._zero_points)
        return (a * b * self._factor).round() * self._result


class _Sum(nn.Module):
    """A sum or difference: fixed-point factors of up to 21 bits, in halves so that float32 holds the products."""

    def __init__(self, first: _QParams, second: _QParams, result: float, *, sign: int) -> None:
        super().__init__()
        self._zero_points, self._result = (first[1], second[1]), result
        fixed = fixed_point(*(torch.tensor(scale) for scale in (first[0], second[0], result)))
        to_first, to_second, self._one = (float(number) / _HALF for number in fixed)
        factors = to_first, sign * to_second
        self._upper = [math.floor(factor) for factor in factors]
        self._lower = [factor - math.floor(factor) for factor in factors]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = map(_steps, (first, second), self._zero_points)
        lower = (a * self._lower[0] + b * self._lower[1]).floor()
        total = a * self._upper[0] + b * self._upper[1] + lower
        return _half_up(total, self._one) * self._result


class _Growth(nn.Module):
    """Bilinear upsampling, first along rows, then along columns, rounded once."""

    down_first: Tensor
    down_second: Tensor
    down_weights: Tensor
    across_first: Tensor
    across_second: Tensor
    across_weights: Tensor

    def __init__(self, before: torch.Size, after: torch.Size, qparams: _QParams, align_corners: bool) -> None:
        super().__init__()
        self._scale, self._zero_point = qparams
        for axis, name in ((2, "down"), (3, "across")):
            first, second, weights = neighbours(before[axis], after[axis], align_corners, torch.device("cpu"))
            self.register_buffer(f"{name}_first", first.to(torch.int32))
            self.register_buffer(f"{name}_second", second.to(torch.int32))
            self.register_buffer(f"{name}_weights", weights.float())

    def forward(self, stored: Tensor) -> Tensor:
        steps, one = _steps(stored, self._zero_point), 2**RESIZE_BITS
        left, right = steps.index_select(3, self.across_first), steps.index_select(3, self.across_second)
        rows = left * one + (right - left) * self.across_weights
        first, second = rows.index_select(2, self.down_first), rows.index_select(2, self.down_second)
        upper = ((second - first) * (1 / _BYTE)).floor()
        lower = (second - first) - upper * _BYTE
        weights = self.down_weights[:, None]
        total = first * (one / _BYTE) + upper * weights + (lower * weights * (1 / _BYTE)).floor()
        return _half_up(total, one**2 / _BYTE) * self._scale


def _half_up(total: Tensor, one: float) -> Tensor:
    """Integers divided by a power of two, rounded half up."""
    return ((total + one / 2) * (1 / one)).floor()
