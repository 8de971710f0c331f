"""`edgevit list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.cli.options import AsJson, print_json, print_table

if TYPE_CHECKING:
    from edgevit.targets.base import Converter


def list(as_json: AsJson = False) -> None:
    """Models with their size, accuracy in the paper and the licence of the authors' weights; targets; devices."""
    from edgevit.models import families
    from edgevit.targets.registry import converter_names, device_schemes, get_converter

    models = [(family, spec) for family, variants in families().items() for spec in variants]
    targets = {name: get_converter(name) for name in converter_names()}
    if as_json:
        print_json(
            {
                "models": [
                    {
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
                    for family, spec in models
                ],
                "targets": [
                    {
                        "name": name,
                        "suffix": target.suffix,
                        "dynamic_batch": target.dynamic_batch,
                        "precisions": sorted(target.precisions),
                    }
                    for name, target in targets.items()
                ],
                "devices": sorted(device_schemes()),
            }
        )
        return
    print_table(
        ("family", "model", "task", "params M", "MACs G", "top-1", "input", "tier", "official weights", "paper"),
        [
            (
                family,
                spec.name,
                spec.task.value,
                f"{spec.params / 1e6:.2f}",
                f"{spec.macs / 1e9:.3f}",
                "-" if spec.top1 is None else f"{spec.top1:.1f}",
                f"{spec.input_size}",
                spec.tier.value,
                spec.weights,
                spec.paper,
            )
            for family, spec in models
        ],
    )
    print()
    print_table(
        ("target", "file", "batch", "precisions"),
        [_target_row(name, target) for name, target in targets.items()],
    )
    print()
    print_table(("device",), [(scheme,) for scheme in device_schemes()])


def _target_row(name: str, target: Converter) -> tuple[str, ...]:
    precisions = ", ".join(sorted(target.precisions))
    return name, "model" + target.suffix, "any" if target.dynamic_batch else "1", precisions
