"""`available`: the models, targets and devices that exist here, as `edgevit list` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.models import families
from edgevit.targets.registry import converter_names, device_schemes, get_converter

if TYPE_CHECKING:
    from edgevit.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """A target: the suffix of its model files, whether they take batches of any size, and its precisions."""

    name: str
    suffix: str
    dynamic_batch: bool
    precisions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `edgevit list --json` prints it."""
        return {
            "name": self.name,
            "suffix": self.suffix,
            "dynamic_batch": self.dynamic_batch,
            "precisions": list(self.precisions),
        }


@dataclass(frozen=True, slots=True)
class Inventory:
    """models: the specs of each family, by its name; devices: the schemes of their addresses, such as "host"."""

    models: dict[str, tuple[ModelSpec, ...]]
    targets: tuple[TargetInfo, ...]
    devices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `edgevit list --json` prints it."""
        return {
            "models": [_model(family, spec) for family, variants in self.models.items() for spec in variants],
            "targets": [target.to_json() for target in self.targets],
            "devices": list(self.devices),
        }


def available() -> Inventory:
    """The models of edgevit, and the targets and devices of all installed plug-ins."""
    converters = [get_converter(name) for name in converter_names()]
    targets = [
        TargetInfo(one.name, one.suffix, one.dynamic_batch, tuple(sorted(map(str, one.precisions))))
        for one in converters
    ]
    return Inventory(families(), tuple(targets), device_schemes())


def _model(family: str, spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "family": family,
        "task": spec.task.value,
        "tier": spec.tier.value,
        "params": spec.params,
        "macs": spec.macs,
        "input_size": spec.input_size,
        "num_classes": spec.num_classes,
        "top1": spec.top1,
        "weights": spec.weights,
        "paper": spec.paper,
    }
