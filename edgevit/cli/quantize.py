"""`edgevit quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import AsJson, Data, MaxDrop, print_json, print_table


def quantize(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`, or file.py:factory.", show_default=False)],
    weights: Annotated[Path, typer.Option("--weights", help="Float checkpoint to start from.", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Int8 checkpoint to write.", show_default=False)],
    samples: Annotated[int, typer.Option("--samples", min=1, help="Training images that set the ranges.")] = 256,
    max_drop: MaxDrop = None,
    as_json: AsJson = False,
) -> None:
    """Set int8 ranges by images (NNCF post-training quantization); `convert --precision int8` takes the result."""
    import dataclasses

    from edgevit.quantization.mixed_precision import HEADER, row
    from edgevit.quantization.ptq import quantize as quantize_model

    result = quantize_model(model, weights=weights, data=data, out=out, samples=samples, max_drop=max_drop)
    if as_json:
        print_json(dataclasses.asdict(result) | {"checkpoint": str(result.checkpoint)})
    else:
        if result.floating:
            print("stay in float:")
            print_table(HEADER, [row(cost) for cost in result.floating])
        print(result.checkpoint)
