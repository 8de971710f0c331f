"""The int8 network in integer arithmetic, bit-exact with the kernels of XNNPACK.

Fake quantization in float moves one value in ten thousand by one quantization step from the output of an integer
kernel, because it breaks ties in another way and adds biases unrounded. Each such step causes others in the next
layers, until in deep networks half of all values differ by one. So what is trained, and what artifacts are compared
with, is the arithmetic that ExecuTorch and LiteRT run: convolutions and linear layers sum int8 products and an int32
bias and are rescaled by one float32 factor, half to even; products likewise; sums are rescaled by fixed-point factors
of 21 bits, half up; bilinear upsampling has weights of 11 bits, half up (XNNPACK, src/reference/unary-elementwise and
microparams-init: "fp32 requantization", qs8-vadd, s8-ibilinear).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgevit.errors import QuantizationError
from edgevit.graph.edit import Graph, is_call, only_user
from edgevit.quantization.annotation import Annotation, fused_activations, origin
from edgevit.quantization.exact_conv import plain_sums
from edgevit.quantization.qparams import QParams, QParamsTable, next_half

_EXACT = 2**24  # up to here float32 holds every integer
_LARGEST = 255  # of a quantized value minus its zero point
_FACTOR_BITS = 21
_LARGEST_FACTOR = 128  # of the 256 that kernels allow, because training moves scales
_LARGEST_QUOTIENT = 512  # of 1024
RESIZE_BITS = 11
_INT32 = 2**31 - 1

Scale = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Site:
    """A node whose kernel computes in integers, and the quantized nodes that it reads and writes, all by name.

    weighted: whether its second operand is a weight, with scales of its own.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    weighted: bool


def integer_sites(deployed: fx.GraphModule, annotation: Annotation) -> tuple[Site, ...]:
    """All convolutions, linear layers, sums, differences, products and bilinear upsamplings from int8 to int8.

    Arithmetic that the annotation keeps in float is among them where its inputs and its result are quantized for other
    reasons: the runtimes see the Q/DQ pairs around it.
    """
    aten = torch.ops.aten
    sites, quantized = [], {node.name for node in annotation.quantized}
    weights = {node.name for node in annotation.weighted}
    binary = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)
    operations = (aten.conv2d.default, aten.linear.default, aten.upsample_bilinear2d.vec, *binary)
    for node in Graph(deployed).calls(*operations):
        weighted = node.name in weights
        read = node.args[: 2 if is_call(node, *binary) else 1]
        inputs = [origin(one) for one in read if isinstance(one, fx.Node)]
        output, user = node, only_user(node)
        if node.name not in quantized and is_call(user, *fused_activations()):  # applied by the kernel
            output = user
        on_grids = len(inputs) == len(read) and all(_on(one, quantized) for one in inputs)
        if output.name in quantized and not node.kwargs and on_grids:
            sites.append(Site(node.name, tuple(one.name for one in inputs), output.name, weighted))
    return tuple(sites)


def coarse_enough(deployed: fx.GraphModule, annotation: Annotation, table: QParamsTable) -> QParamsTable:
    """The table, its scales enlarged where a kernel could not rescale between them.

    XNNPACK takes only factors below 256, and in sums not below 1/1024. A result that is always zero, as behind a fused
    activation that clips everything, would get the smallest scale there is.
    """
    qparams = dict(table.activations)
    groups = {name: group for group in annotation.shared for name in group}

    def widen(name: str, scale: float) -> None:
        if qparams[name].scale < scale:
            for member in groups.get(name, {name}):
                qparams[member] = QParams(next_half(scale), qparams[member].zero_point)

    multiplies = {node.name for node in Graph(deployed).calls(torch.ops.aten.mul.Tensor)}
    keeping = {node.name for node in Graph(deployed).calls(torch.ops.aten.upsample_bilinear2d.vec)}
    for site in integer_sites(deployed, annotation):
        if site.name in keeping:
            continue
        steps = [qparams[name].scale for name in site.inputs]
        if site.weighted:
            steps = [steps[0] * float(table.weights[site.name].scales.max())]
        step = math.prod(steps) if site.name in multiplies else max(steps)
        widen(site.output, step / _LARGEST_FACTOR)
        for name in () if site.weighted or site.name in multiplies else site.inputs:
            widen(name, qparams[site.output].scale / _LARGEST_QUOTIENT)
    return dataclasses.replace(table, activations=qparams)


def _on(value: Any, quantized: set[str]) -> bool:
    return isinstance(value, fx.Node) and value.name in quantized


def in_integers(
    module: fx.GraphModule, sites: tuple[Site, ...], activations: Mapping[str, Scale], weights: Mapping[str, Scale]
) -> fx.GraphModule:
    """Let the nodes of `sites` compute in integers, in place; their inputs must be quantized already.

    activations, weights: functions that return the scale (1,) or the scales (O,), by node. Gradients are those of the
    float operations. Raises QuantizationError if a node is missing.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    for site in sites:
        node = nodes.get(site.name)
        if node is None:
            raise QuantizationError(f"the int8 graph has no {site.name}", fix="report the model")
        scales = [activations[name] for name in site.inputs]
        if site.weighted:
            scales.append(weights[site.name])
        kernel = f"integers_{site.name}"
        module.add_submodule(kernel, IntegerKernel(node.target, (*scales, activations[site.output])))
        with module.graph.inserting_before(node):
            call = module.graph.call_module(kernel, node.args, node.kwargs)
        call.meta.update(node.meta)
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
    module.recompile()
    return module


class IntegerKernel(nn.Module):
    """One operation on dequantized int8 tensors, float32 in and out, in integer arithmetic emulated exactly.

    operation: aten conv2d, linear, add, sub, mul or upsample_bilinear2d. scales: of its inputs, the weight's among
    them, and of its result, which is a multiple of its scale but not clamped yet.
    """

    def __init__(self, operation: Any, scales: tuple[Scale, ...]) -> None:
        super().__init__()
        self._operation = operation
        self._scales = scales
        aten = torch.ops.aten
        kernels: dict[Any, Callable[..., Tensor]] = {
            aten.add.Tensor: _sum,
            aten.sub.Tensor: _difference,
            aten.mul.Tensor: _product,
            aten.upsample_bilinear2d.vec: _grown,
        }
        self._kernel = kernels.get(operation, self._weighted)

    def forward(self, *args: Any) -> Tensor:
        """As the operation; with gradients, those of the float operation."""
        with torch.no_grad():
            scales = [scale().detach() for scale in self._scales]
            result = self._kernel(*args, scales=scales)
        learned = torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        return _Instead.apply(self._operation(*args), result) if learned else result

    def _weighted(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, scales: list[Tensor]
    ) -> Tensor:
        data, weights, result = scales
        x, weight = (x / data).round(), (weight / _along(weights, weight.dim(), 0)).round()
        if bias is not None:
            bias = whole_bias(bias, weights.double() * data.double())
        reach = weight.abs().flatten(1).sum(dim=1).max() * _LARGEST + (0 if bias is None else bias.abs().max())
        if reach >= _EXACT or x.device.type != "cpu":  # other devices may sum in less than float32 precision
            x, weight = x.double(), weight.double()
        with plain_sums(weight, rest[0] if rest else (1,)):
            summed = self._operation(x, weight, None if bias is None else bias.to(x.dtype), *rest)
        channels = 1 if _is_convolution(self._operation) else summed.dim() - 1
        factor = weights * data / result
        return (summed.float() * _along(factor, summed.dim(), channels)).round() * result


def quantize_bias(bias: Tensor, data: float, weights: Tensor) -> Tensor:
    """A bias (O,) rounded as kernels do, which add it as int32. data: scale of the input, weights: scales (O,)."""
    products = weights.double() * data
    return (whole_bias(bias, products) * products).float()


def whole_bias(bias: Tensor, products: Tensor) -> Tensor:
    """A bias (O,) as the int32 that kernels add, in float64; products: the scales of input times weight (O,)."""
    return (bias.double() / products).round().clamp(-_INT32 - 1, _INT32)


def _is_convolution(operation: Any) -> bool:
    """Whether an operation has its channels on axis 1; linear layers have them on the last."""
    return operation is torch.ops.aten.conv2d.default


class _Instead(torch.autograd.Function):
    """The second value with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _sum(a: Tensor, b: Tensor, *, scales: list[Tensor], sign: int = 1) -> Tensor:
    first, second, result = scales
    *factors, one = fixed_point(*scales)
    total = (a / first).round() * factors[0] + sign * (b / second).round() * factors[1]
    return torch.floor(total / one + 0.5).float() * result


def fixed_point(first: Tensor, second: Tensor, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integer factors of two summands and the integer that stands for 1: the larger factor has 21 bits. float64."""
    ratios = first / result, second / result
    exponent = torch.frexp(torch.maximum(*ratios)).exponent
    one = torch.exp2((_FACTOR_BITS - exponent).double())
    return (ratios[0].double() * one).round(), (ratios[1].double() * one).round(), one


def _difference(a: Tensor, b: Tensor, *, scales: list[Tensor]) -> Tensor:
    return _sum(a, b, scales=scales, sign=-1)


def _product(a: Tensor, b: Tensor, *, scales: list[Tensor]) -> Tensor:
    first, second, result = scales
    return ((a / first).round() * (b / second).round() * (first * second / result)).round() * result


def _grown(
    x: Tensor,
    size: list[int] | None,
    align_corners: bool,
    factors: list[float] | None = None,
    *,
    scales: list[Tensor],
) -> Tensor:
    """Bilinear upsampling of (N, C, H, W), same scale: first along rows, then along columns, rounded once."""
    height, width = size or [int(x.shape[axis] * factor) for axis, factor in zip((2, 3), factors or (), strict=True)]
    (left, right, across), (top, bottom, down) = (
        neighbours(x.shape[axis], length, align_corners, x.device) for axis, length in ((3, width), (2, height))
    )
    one = 2.0**RESIZE_BITS
    steps = (x / scales[0]).round().double()
    rows = steps[..., left] * one + (steps[..., right] - steps[..., left]) * across
    upper, lower = rows[:, :, top], rows[:, :, bottom]
    total = upper * one + (lower - upper) * down[:, None]
    return torch.floor(total / one**2 + 0.5).float() * scales[0]


def neighbours(before: int, after: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each output position its two source positions and the second one's weight, in units of 2^-11."""
    positions = torch.arange(after, device=device, dtype=torch.float32)
    if align_corners:
        places = positions * ((before - 1) / max(after - 1, 1))
    else:
        places = (positions + 0.5) * (before / after) - 0.5
    places = places.clamp(0, before - 1)
    first = places.floor().long()
    weights = ((places - first) * 2**RESIZE_BITS).round().double()
    return first, (first + 1).clamp_max(before - 1), weights


def _along(values: Tensor, rank: int, axis: int) -> Tensor:
    """(O,) reshaped to broadcast along one axis of a tensor of `rank` axes."""
    return values.reshape([-1 if one == axis else 1 for one in range(rank)])
