"""`edgevit qparams`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgevit
from edgevit.cli.options import ArtifactPath, AsJson, ModelFile, print_json, print_table

if TYPE_CHECKING:
    from edgevit.verification.qparams_report import QParamsReport


def qparams(
    artifact: ArtifactPath,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Its checkpoint, to compare with number by number.", show_default=False),
    ] = None,
    model: ModelFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the quantization parameters in an artifact's file: of weights by layer, of tensors as SCALE @ ZERO_POINT.

    With --weights the command fails unless every one is exactly the checkpoint's.
    """
    report = edgevit.qparams(artifact, weights=weights, model=model, strict=False)
    if as_json:
        print_json(report.to_json())
    else:
        print_table(("layer", "weight", "scales", "reads", "writes"), _rows(report))
    report.require()
    if not as_json:
        print(report.summary())


def _rows(report: QParamsReport) -> list[tuple[str, ...]]:
    """One per layer; by the checkpoint's names where it was compared with one. Float layers come last."""
    names = report.comparison.names if report.comparison else {}
    rows: list[tuple[str, ...]] = [
        (
            names.get(layer.name, layer.name),
            "x".join(map(str, layer.weight.int_repr.shape)),
            f"{layer.weight.scales.min():.6g} to {layer.weight.scales.max():.6g}",
            str(layer.input or "float"),
            str(layer.result or "float"),
        )
        for layer in report.qparams.layers
    ]
    return rows + [(name, "float", "-", "float", "float") for name in report.qparams.float_layers]
