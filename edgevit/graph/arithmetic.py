"""Runs a captured graph in another arithmetic than it was captured in.

In float64 it shows what a network computes before float32 rounds anything, and with every value rounded to fp16 or bf16
what a network keeps in such a runtime. Neither copies the network: weights are cast as the graph reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.compat.torch import schema_of
from edgevit.graph.edit import place

CANNOT_RUN = (RuntimeError, TypeError, MemoryError)  # what PyTorch raises for an operation without a float64 kernel
_CONV = torch.ops.aten.conv2d.default
_ASSERTION = torch.ops.aten._assert_tensor_metadata.default


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """The first operation whose values, or weights, leave the range of a type: its module path, the largest value."""

    place: str
    largest: float


@dataclass(frozen=True, slots=True)
class Rounded:
    """A network's output where every value was rounded, and where values left the range of the type."""

    output: Any
    out_of_range: OutOfRange | None


@torch.no_grad()
def run_in_float64(network: fx.GraphModule, *inputs: Tensor) -> Any:
    """The network's output, a tensor or several, in float64, whatever type of floats its operations name.

    network: of `capture.functional`. Raises one of CANNOT_RUN for an operation that PyTorch has in float32
    alone, and where memory ends.
    """
    return _InFloat64(network).run(*inputs)


@torch.no_grad()
def run_rounded(network: fx.GraphModule, dtype: torch.dtype, *inputs: Tensor) -> Rounded:
    """The network with inputs, weights and the result of every operation rounded to fp16 or bf16.

    Operations sum in float32, as kernels of these types do. Values beyond the range of the type become infinite.
    """
    interpreter = _WithRounding(network, dtype)
    return Rounded(interpreter.run(*inputs), interpreter.out_of_range)


class _InFloat64(fx.Interpreter):
    def run_node(self, node: fx.Node) -> Any:
        if node.target is _ASSERTION:
            return None  # it asserts the type before the cast
        if node.op != "call_function":
            return _cast(super().run_node(node), torch.float64)
        args, kwargs = fx.node.map_aggregate(self.fetch_args_kwargs_from_env(node), _widened)
        if _makes_floats(node):
            kwargs = {"dtype": torch.float64, **kwargs}
        if node.target is _CONV and len(args) == 7 and 1 < args[6] == args[0].shape[1]:
            return _depthwise(*args)  # PyTorch has no fast kernel for it
        operation: Any = node.target
        return operation(*args, **kwargs)


class _WithRounding(fx.Interpreter):
    def __init__(self, network: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__(network)
        self._dtype = dtype
        self.out_of_range: OutOfRange | None = None

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        rounded = result.to(self._dtype)
        if self.out_of_range is None and not rounded.isfinite().all() and result.isfinite().all():
            layer = next(iter(node.users), node) if node.op == "get_attr" else node
            self.out_of_range = OutOfRange(place(layer), float(result.abs().max()))
        return rounded.to(result.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _widened(value: Any) -> Any:
    """float64 in the place of another type of floats, anything else as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _makes_floats(node: fx.Node) -> bool:
    """Whether a call makes floats from numbers alone, and may leave their type to torch."""
    made = node.meta.get("val")
    return (
        not node.all_input_nodes
        and isinstance(made, Tensor)
        and made.is_floating_point()
        and any(argument.name == "dtype" for argument in schema_of(node.target).arguments)
    )


def _depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, channels: int
) -> Tensor:
    """conv2d with as many groups as channels: one multiplication and addition of whole feature maps per tap."""
    (sh, sw), (ph, pw), (dh, dw) = (tuple(size) * (2 // len(size)) for size in (stride, padding, dilation))
    kh, kw = weight.shape[2:]
    x = torch.nn.functional.pad(x, (pw, pw, ph, ph))
    height, width = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    taps = weight.view(channels, -1, kh, kw)
    sums = x.new_zeros((len(x), channels, taps.shape[1], height, width))
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
            columns = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
            sums.addcmul_(x[:, :, None, rows, columns], taps[:, :, i, j, None, None])
    result = sums.view(len(x), -1, height, width)
    return result if bias is None else result + bias.view(-1, 1, 1)
