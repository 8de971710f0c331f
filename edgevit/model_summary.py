"""What a model is made of, and what each target makes of it: the facts behind `edgevit info`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.user_models import is_file_model
from edgevit.compat.torch import tree_leaves
from edgevit.errors import UsageError
from edgevit.log import stage
from edgevit.models import get_spec
from edgevit.models.counting import count_macs_by_module, count_params
from edgevit.spec import ModelSpec
from edgevit.targets.registry import converter_names, get_converter

if TYPE_CHECKING:
    from torch import nn

    from edgevit.contract.manifest import AppliedPass
    from edgevit.targets.base import Converter


@dataclass(frozen=True, slots=True)
class Layer:
    """One module: its path, class, output shape (of the first output, if there are several), params and MACs."""

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a target does with a model.

    meant: whether the target is one for models of this tier. operations and macs: of the graph that it converts, None
    where nothing was rewritten because the target is not meant for the model. passes: (name, places changed).
    """

    target: str
    meant: bool
    precisions: tuple[str, ...]
    operations: int | None = None
    macs: int | None = None
    passes: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `edgevit info --json` prints it."""
        return dataclasses.asdict(self) | {"passes": dict(self.passes)}


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model's layers in the order in which they run, and what each target does with it."""

    spec: ModelSpec
    layers: tuple[Layer, ...]
    targets: tuple[Plan, ...]

    def to_json(self) -> dict[str, Any]:
        """As `edgevit info --json` prints it."""
        return {
            "model": self.spec.name,
            "tier": self.spec.tier.value,
            "input_size": self.spec.input_size,
            "layers": [dataclasses.asdict(layer) | {"shape": list(layer.shape)} for layer in self.layers],
            "targets": [plan.to_json() for plan in self.targets],
        }


def info(model: str, *, num_classes: int | None = None, input_size: int | None = None, depth: int = 2) -> ModelSummary:
    """The layers of a model with output shapes, parameters and MACs, and the graph that each target converts.

    model: a name of `edgevit list`. num_classes, input_size (pixels of each side): by default the published ones.
    depth: names in the path of a layer, at most. The deploy passes run on random weights; of targets that are not
    meant for a model of this size nothing is tried.
    Raises UsageError for names, and sizes that the network cannot take.
    """
    if is_file_model(model):
        raise UsageError(
            f"{model}: only models of `edgevit list` can be looked at so", fix="convert it: what fails is named"
        )
    spec = get_spec(model).for_task(num_classes, input_size)
    rows = layers(spec, depth)
    with stage("deploy", model=spec.name):
        planned = plans(spec, {name: get_converter(name) for name in converter_names()})
    return ModelSummary(spec, tuple(rows), tuple(planned))


def layers(spec: ModelSpec, depth: int) -> list[Layer]:
    """Modules of a model down to `depth` names in their path, in the order in which they run.

    Nothing is computed and no memory taken for weights: the model stands on the meta device.
    """
    import torch

    with torch.device("meta"):
        model = spec.instantiate().eval()
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [module.register_forward_hook(_recorder(shapes, path)) for path, module in model.named_modules() if path]
    macs = count_macs_by_module(model, spec.inputs[0].shape)
    for hook in hooks:
        hook.remove()
    modules = dict(model.named_modules())
    return [
        Layer(path, type(modules[path]).__name__, shape, count_params(modules[path]), macs.get(path, 0))
        for path, shape in shapes.items()
        if path.count(".") < depth
    ]


def _recorder(shapes: dict[str, tuple[int, ...]], path: str) -> Any:
    import torch

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        shapes[path] = tuple(tensors[0].shape)

    return record


def plans(spec: ModelSpec, converters: dict[str, Converter]) -> list[Plan]:
    """What each target does with a model with random weights; rewrites it once per kernel library that is meant."""
    from edgevit.deploy.pass_manager import deploy
    from edgevit.graph.capture import capture, example_input, functional

    meant = {name: converter.tier is spec.tier for name, converter in converters.items()}
    applied: dict[str, tuple[AppliedPass, ...]] = {}
    if any(meant.values()):
        model = spec.instantiate()
        captured = functional(capture(model, tuple(example_input(tensor.shape) for tensor in spec.inputs), spec.name))
        for kernels in sorted({converters[name].kernels for name in converters if meant[name]}):
            _, applied[kernels] = deploy(captured, spec, kernels=kernels)
    return [
        _plan(name, meant[name], tuple(sorted(c.precisions)), applied.get(c.kernels, ()))
        for name, c in converters.items()
    ]


def _plan(target: str, meant: bool, precisions: tuple[str, ...], applied: tuple[AppliedPass, ...]) -> Plan:
    after = applied[-1].after if applied else None
    if not meant or after is None:
        return Plan(target, meant, precisions)
    changes: dict[str, int] = {}
    for one in applied:
        changes[one.name] = changes.get(one.name, 0) + one.changes
    return Plan(target, meant, precisions, after.operations, after.macs, tuple(changes.items()))
