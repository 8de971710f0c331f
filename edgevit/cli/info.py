"""`edgevit info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import edgevit
from edgevit.cli.options import AsJson, Classes, InputSize, print_json, print_table

if TYPE_CHECKING:
    from edgevit.model_summary import Layer, Plan


def info(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`.", show_default=False)],
    classes: Classes = None,
    input_size: InputSize = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Names in the path of a layer, at most.")] = 2,
    as_json: AsJson = False,
) -> None:
    """A model's layers with output shape, parameters and multiply-accumulates, and what each target does with it.

    The deploy passes are those that `convert` applies, here to random weights. Models of more than 35 M parameters are
    meant for servers: targets for phones are then named, but not tried.
    """
    summary = edgevit.info(model, num_classes=classes, input_size=input_size, depth=depth)
    if as_json:
        print_json(summary.to_json())
        return
    print_table(("layer", "kind", "output", "params", "MACs M"), [_layer_row(layer) for layer in summary.layers])
    print()
    print_table(
        ("target", "meant for it", "precisions", "operations", "MACs G", "applied passes"),
        [_plan_row(plan) for plan in summary.targets],
    )


def _layer_row(row: Layer) -> tuple[str, ...]:
    return (row.name, row.kind, "x".join(map(str, row.shape)), f"{row.params}", f"{row.macs / 1e6:.2f}")


def _plan_row(plan: Plan) -> tuple[str, ...]:
    return (
        plan.target,
        "yes" if plan.meant else "no",
        ", ".join(plan.precisions),
        "-" if plan.operations is None else f"{plan.operations}",
        "-" if plan.macs is None else f"{plan.macs / 1e9:.3f}",
        ", ".join(f"{name} {changes}" for name, changes in plan.passes),
    )
