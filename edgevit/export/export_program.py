"""Export: deployed module -> Program, the one form that every converter takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import quiet_tree_specs
from edgevit.export.program import Program
from edgevit.graph.capture import capture, example_input, is_functional, to_functional
from edgevit.graph.dynamic_batch import OUTPUTS, QDQ_OPS, any_batch
from edgevit.spec import ModelSpec, Precision

_EXAMPLE_BATCH = 2  # torch.export treats a size of 1 as a constant

if TYPE_CHECKING:
    from torch import fx, nn


def export(
    module: nn.Module,
    spec: ModelSpec,
    *,
    precision: Precision = Precision.FP32,
    labels: tuple[str, ...] = (),
    provenance: dict[str, Any] | None = None,
    dynamic_batch: bool = False,
) -> Program:
    """Capture `module` at the spec's input shapes and turn it into functional inference ops.

    dynamic_batch: for any number of images at once; `module` is then a graph that `capture.functional` gave, or a
    rewrite of it. Raises ExportError if the module cannot be captured or breaks an invariant of Program.
    """
    from torch import fx

    ready = is_functional(module) and not dynamic_batch
    if dynamic_batch:
        assert isinstance(module, fx.GraphModule)  # as the docstring asks
        module = any_batch(module, QDQ_OPS if precision is Precision.INT8 else OUTPUTS)
    sizes = ((_EXAMPLE_BATCH, *tensor.shape[1:]) if dynamic_batch else tensor.shape for tensor in spec.inputs)
    inputs = tuple(example_input(shape) for shape in sizes)
    captured = capture(module, inputs, spec.name, dynamic_batch=dynamic_batch)
    with quiet_tree_specs():
        functional = captured if ready else to_functional(captured)
    functional.graph_module.graph.eliminate_dead_code()  # results without users, such as a norm's statistics
    _say_strides(functional.graph_module.graph)
    return Program(functional, spec, precision, labels, provenance or {})


def _say_strides(graph: fx.Graph) -> None:
    """Write out the stride of pools that default to their kernel size: converters expect it."""
    import torch

    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default):
        source, kernel, *rest = node.args
        if not rest or not rest[0]:
            node.args = (source, kernel, kernel, *rest[1:])
