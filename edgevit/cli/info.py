"""`edgevit info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.options import AsJson, print_json, print_table

if TYPE_CHECKING:
    from edgevit.model_summary import Layer, Plan


def info(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`.", show_default=False)],
    classes: Annotated[int | None, typer.Option("--classes", help="Classes of your task.", show_default=False)] = None,
    input_size: Annotated[
        int | None, typer.Option("--input-size", help="Pixels of each side.", show_default=False)
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Names in the path of a layer, at most.")] = 2,
    as_json: AsJson = False,
) -> None:
    """A model's layers with output shape, parameters and multiply-accumulates, and what each target does with it.

    The rewrites are those that `convert` makes, on random weights. Models of more than 35 M parameters are meant for
    servers: targets for phones are then named, but not tried.
    """
    from edgevit.log import stage
    from edgevit.model_summary import layers, plans
    from edgevit.models import get_spec
    from edgevit.targets.registry import converter_names, get_converter

    spec = get_spec(model).for_task(classes, input_size)
    rows = layers(spec, depth)
    with stage("deploy", model=spec.name):
        planned = plans(spec, {name: get_converter(name) for name in converter_names()})
    if as_json:
        document = {
            "model": spec.name,
            "tier": spec.tier.value,
            "input_size": spec.input_size,
            "layers": [
                {"name": r.name, "kind": r.kind, "shape": list(r.shape), "params": r.params, "macs": r.macs}
                for r in rows
            ],
            "targets": [plan.to_json() for plan in planned],
        }
        print_json(document)
        return
    print_table(("layer", "kind", "output", "params", "MACs M"), [_layer_row(row) for row in rows])
    print()
    print_table(
        ("target", "meant for it", "precisions", "operations", "MACs G", "rewrites"), list(map(_plan_row, planned))
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
