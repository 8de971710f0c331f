"""`edgevit list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.cli.options import AsJson, print_json, print_table

if TYPE_CHECKING:
    from edgevit.conversion import Converter


def list(as_json: AsJson = False) -> None:
    """Models with their task, size and paper; targets; devices."""
    from edgevit.models import iter_specs
    from edgevit.plugins import converter_names, device_schemes, get_converter

    specs = sorted(iter_specs(), key=lambda spec: spec.name)
    targets = {name: get_converter(name) for name in converter_names()}
    if as_json:
        print_json(
            {
                "models": [
                    {
                        "name": spec.name,
                        "task": spec.task.value,
                        "tier": spec.tier.value,
                        "params": spec.params,
                        "macs": spec.macs,
                        "input_size": spec.input_size,
                        "num_classes": spec.num_classes,
                        "paper": spec.paper,
                    }
                    for spec in specs
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
        ("model", "task", "params M", "MACs G", "input", "paper"),
        [
            (s.name, s.task.value, f"{s.params / 1e6:.2f}", f"{s.macs / 1e9:.3f}", f"{s.input_size}", s.paper)
            for s in specs
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
