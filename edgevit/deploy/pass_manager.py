"""Exact rewrites of the trained network into a form that runtimes run fast; `deploy` applies and checks each pass."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Protocol

from edgevit.compat.torch import quiet_tree_specs
from edgevit.contract.manifest import AppliedPass, ReferenceFacts, Tolerance
from edgevit.contract.tolerances import float32_bound, why
from edgevit.deploy.cost_model import Costs, read_costs
from edgevit.deploy.passes.decompose_dynamic_conv import DECOMPOSE_DYNAMIC_CONV
from edgevit.deploy.passes.decompose_layer_norm import DECOMPOSE_LAYER_NORM
from edgevit.deploy.passes.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from edgevit.deploy.passes.fold_affine import FOLD_AFFINE
from edgevit.deploy.passes.fold_channel_shuffles import DENSE_POINTWISE, FOLD_CHANNEL_SHUFFLES
from edgevit.deploy.passes.fold_constants import FOLD_CONSTANTS
from edgevit.deploy.passes.move_permutes import MOVE_PERMUTES
from edgevit.deploy.passes.remove_noops import REMOVE_NOOPS
from edgevit.deploy.passes.simplify_views import SIMPLIFY_VIEWS
from edgevit.deploy.passes.softmax_last_axis import SOFTMAX_LAST_AXIS
from edgevit.deploy.passes.split_depthwise import REPLICATE_DEPTHWISE, SPLIT_DEPTHWISE
from edgevit.deploy.passes.strided_slice_to_conv import STRIDED_SLICE_TO_CONV
from edgevit.errors import ExportError
from edgevit.graph.capture import capture, example_input, functional, is_functional
from edgevit.graph.edit import Graph
from edgevit.graph.explain import graph_facts

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.export import ExportedProgram

    from edgevit.spec import ModelSpec


class Pass(Protocol):
    """One exact rewrite of a captured graph. A pattern that is not there leaves the graph as it was."""

    @property
    def name(self) -> str:
        """As manifests and errors have it."""

    def apply(self, graph: Graph, costs: Costs) -> list[str]:
        """Rewrite in place where it pays by `costs`; returns the module paths of the places changed."""


PASSES: tuple[Pass, ...] = (
    REMOVE_NOOPS,
    ELIMINATE_COMMON_SUBEXPRESSIONS,
    FOLD_CONSTANTS,
    DECOMPOSE_DYNAMIC_CONV,
    SOFTMAX_LAST_AXIS,
    SIMPLIFY_VIEWS,
    DECOMPOSE_LAYER_NORM,
    SIMPLIFY_VIEWS,
    MOVE_PERMUTES,
    REMOVE_NOOPS,
    STRIDED_SLICE_TO_CONV,
    DENSE_POINTWISE,
    REPLICATE_DEPTHWISE,
    FOLD_CHANNEL_SHUFFLES,
    FOLD_AFFINE,
    SPLIT_DEPTHWISE,
)


def deploy(
    module: nn.Module | ExportedProgram, spec: ModelSpec, passes: tuple[Pass, ...] = PASSES, kernels: str = "xnnpack"
) -> tuple[fx.GraphModule, tuple[AppliedPass, ...]]:
    """Capture `module` in eval mode and apply `passes` in order; `module` itself is not touched.

    module: any network, what torch.export made of it, or what `capture.functional` did. kernels: the kernel library
    that the result shall run on, a table of costs.toml.
    After each pass that changed something a probe input runs through the graph before and after. Outputs that differ by
    more than 1e-5 of the largest one are compared with the plain graph's in float64: a rewrite may be four times as far
    from them as plain float32 is. Raises ExportError naming the pass and the places if it is farther.
    """
    costs = read_costs(kernels)
    probe = tuple(example_input(tensor.shape, seed=1) for tensor in spec.inputs)
    captured = _captured(module, probe, spec.name)
    graph_module = _own_weights(captured)
    graph = Graph(graph_module)
    before, facts = _run(graph_module, probe), graph_facts(graph)
    exact = _ExactOutputs(captured, probe, before)
    steps = []
    for rewrite in passes:
        places = rewrite.apply(graph, costs)
        if not places:
            continue
        after = _run(graph_module, probe)
        error = _relative_error(after, before)
        if not error <= float32_bound(None) and (wrong := exact.difference(after)):
            raise ExportError(
                f"deploy pass {rewrite.name} changed the output of {spec.name} by {wrong}; it had rewritten "
                f"{', '.join(places[:4])}",
                fix="report this with the model; --no-deploy converts the plain graph",
            )
        previous, facts = facts, graph_facts(graph)
        steps.append(AppliedPass(rewrite.name, len(places), error, tuple(dict.fromkeys(places)), previous, facts))
        before = after
    return graph_module, tuple(steps)


class _ExactOutputs:
    """The plain graph's outputs in float64, computed when they are first needed."""

    def __init__(self, captured: fx.GraphModule, probe: tuple[Tensor, ...], single: Tensor) -> None:
        self._captured, self._probe, self._single = captured, probe, single

    def difference(self, actual: Tensor) -> str:
        """How far outputs are from the float64 ones, in words, "" if no farther than rounding explains."""
        outputs, float32_error = self._outputs
        error, bound = _relative_error(actual, outputs), float32_bound(float32_error)
        reason = why(Tolerance(max_relative_error=bound), ReferenceFacts("float64", float32_error, None))
        return "" if error <= bound else f"{error:.1e} (at most {bound:.2g}{reason and ', ' + reason})"

    @functools.cached_property
    def _outputs(self) -> tuple[Tensor, float | None]:
        """Outputs, and how far plain float32 is from them; None where float64 cannot run."""
        from edgevit.graph.arithmetic import CANNOT_RUN, run_in_float64

        try:
            exact = _joined(run_in_float64(self._captured, *self._probe))
        except CANNOT_RUN:
            return self._single, None
        return exact, _relative_error(self._single, exact)


def _captured(module: nn.Module | ExportedProgram, inputs: tuple[Tensor, ...], name: str) -> fx.GraphModule:
    from torch.export import ExportedProgram

    if isinstance(module, ExportedProgram):
        return functional(module)
    return module if is_functional(module) else functional(capture(module, inputs, name))


def _own_weights(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Copy the tensors, which the capture shares with the module it came from."""
    with quiet_tree_specs():
        return copy.deepcopy(graph_module)


def _run(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Tensor:
    import torch

    with torch.no_grad():
        return _joined(graph_module(*inputs))


def _joined(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All outputs as one tensor."""
    import torch

    return output if isinstance(output, torch.Tensor) else torch.cat([part.flatten() for part in output])


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    """max|a-b| / max|b|; not-a-number stays not-a-number and fails every bound."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
