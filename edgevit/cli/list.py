"""`edgevit list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import edgevit
from edgevit.cli.options import AsJson, print_json, print_table

if TYPE_CHECKING:
    from edgevit.inventory import TargetInfo
    from edgevit.spec import ModelSpec


def list(as_json: AsJson = False) -> None:
    """Models with their size, accuracy in the paper and the licence of the authors' weights; targets; devices."""
    found = edgevit.available()
    if as_json:
        print_json(found.to_json())
        return
    print_table(
        ("family", "model", "task", "params M", "MACs G", "top-1", "input", "tier", "official weights", "paper"),
        [_model_row(family, spec) for family, variants in found.models.items() for spec in variants],
    )
    print()
    print_table(("target", "file", "batch", "precisions"), [_target_row(target) for target in found.targets])
    print()
    print_table(("device",), [(scheme,) for scheme in found.devices])


def _model_row(family: str, spec: ModelSpec) -> tuple[str, ...]:
    return (
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


def _target_row(target: TargetInfo) -> tuple[str, ...]:
    batch = "any" if target.dynamic_batch else "1"
    return target.name, "model" + target.suffix, batch, ", ".join(target.precisions)
