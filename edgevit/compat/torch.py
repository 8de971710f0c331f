"""Private names of PyTorch. None is loaded before it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.export import ExportedProgram
    from torch.export.graph_signature import OutputSpec
    from torch.utils.flop_counter import FlopCounterMode

_Module = TypeVar("_Module", bound="type[nn.Module]")
AOTI_MODULE = "torch._inductor.package"  # what running a compiled package imports


def qdq_operations() -> Any:
    """The namespace of quantize_per_tensor, dequantize_per_tensor and dequantize_per_channel.

    They are torch's, but registered only once this module is imported; torchao brings others.
    """
    import torch
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def schema_of(operation: Any) -> Any:
    """The declaration of an ATen operation: `name`, and `arguments` with their names and default values."""
    return operation._schema


def tree_leaves(tree: Any) -> list[Any]:
    """What is in nested lists, tuples and dictionaries, as torch.export walks them."""
    from torch.utils import _pytree

    return _pytree.tree_leaves(tree)


def map_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nesting with `function` of each of its leaves."""
    from torch.utils import _pytree

    return _pytree.tree_map(function, tree)


def with_returned(
    exported: ExportedProgram, graph_module: fx.GraphModule, returned: Sequence[OutputSpec]
) -> ExportedProgram:
    """The program with another graph, which takes the same inputs and returns these.

    torch.export can change what a program returns only by capturing it anew, under new names.
    """
    import copy

    import torch
    from torch.utils import _pytree

    signature = torch.export.ExportGraphSignature(list(exported.graph_signature.input_specs), list(returned))
    calls = copy.deepcopy(exported.module_call_graph)
    calls[0].signature.out_spec = _pytree.tree_structure((0,) * len(returned))
    return torch.export.ExportedProgram(
        root=graph_module,
        graph=graph_module.graph,
        graph_signature=signature,
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=calls,
        example_inputs=exported.example_inputs,
        constants=exported.constants,
        verifiers=exported.verifiers,
    )


@contextmanager
def quiet_tree_specs() -> Iterator[None]:
    """Hold back what torch says of its own LeafSpec wherever it copies or rebuilds a captured program."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        yield


@contextmanager
def shared_node_origins() -> Iterator[None]:
    """Let graph nodes share the records of the nodes that they were made from, instead of copying them in depth.

    Every one of ExecuTorch's 60 passes copies, for every node, the chain of all passes before it: a tenth of the
    lowering. Nobody changes a record once it is made. Where torch is not as expected, nothing happens.
    """
    try:
        from torch.fx.traceback import NodeSource
    except ImportError:
        yield
        return
    if hasattr(NodeSource, "__deepcopy__"):
        yield
        return
    record: Any = NodeSource
    record.__deepcopy__ = lambda self, memo: self
    try:
        yield
    finally:
        del record.__deepcopy__


def fake_quantize_per_tensor(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, gradient_factor: float
) -> Tensor:
    """Quantize and dequantize with a scale (1,) and a zero point (1,), both float32, that gradients reach.

    gradient_factor: what their gradients are multiplied by. The public torch.fake_quantize_* train neither.
    """
    import torch

    return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, low, high, gradient_factor)


def fake_quantize_per_channel(
    x: Tensor, scales: Tensor, zero_points: Tensor, low: int, high: int, gradient_factor: float
) -> Tensor:
    """The same with scales (O,) and zero points (O,) along the first axis."""
    import torch

    return torch._fake_quantize_learnable_per_channel_affine(x, scales, zero_points, 0, low, high, gradient_factor)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm of any kind; their common base class is private."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


def notified_of_casts(module_type: _Module) -> _Module:
    """Class decorator: `after_cast()` runs whenever to(), half(), to_empty() and the like have changed the module.

    torch has no hook there, only the method that all of them call.
    """
    apply = module_type._apply

    def _apply(self: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        apply(self, fn, recurse)
        self.after_cast()
        return self

    changed: Any = module_type
    changed._apply = _apply
    return module_type


def flop_counter(counts: Callable[[Any, Any], bool], formulas: Mapping[Any, Callable[..., int]]) -> FlopCounterMode:
    """A FlopCounterMode that counts a call only where `counts(its arguments, its result)` says so.

    formulas: of further operations. The public class counts every call.
    """
    from torch.utils.flop_counter import FlopCounterMode

    class Selective(FlopCounterMode):
        def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
            return super()._count_flops(func_packet, out, args, kwargs) if counts((args, kwargs), out) else out

    return Selective(display=False, custom_mapping=dict(formulas))


def onnx_forms(opset: int) -> Callable[[Any], bool]:
    """Whether torch.onnx has a form for an operation, as a function; the exporter itself names only the first missing.

    Rules that break an operation up first do not count.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset).is_registered


def compile_aoti_package(exported: ExportedProgram, path: Path, settings: Mapping[str, object]) -> None:
    """Compile a program into a .pt2 package with Inductor's settings; torch documents it under a private name.

    Raises RuntimeError or OSError with what the compilers said.
    """
    import torch

    torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=dict(settings))


def load_aoti_package(path: Path) -> Callable[..., Any]:
    """A .pt2 package as a function of tensors; its code is loaded into this process."""
    import torch

    return torch._inductor.aoti_load_package(str(path))
