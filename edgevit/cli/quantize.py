"""`edgevit quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import AsJson, Data, InputSize, MaxDrop, Samples, print_checkpoint, print_table


def quantize(
    model: Annotated[str, typer.Argument(help="Name from `edgevit list`, or file.py:factory.", show_default=False)],
    weights: Annotated[Path, typer.Option("--weights", help="Float checkpoint to start from.", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Int8 checkpoint to write.", show_default=False)],
    samples: Samples = 256,
    input_size: InputSize = None,
    max_drop: MaxDrop = None,
    as_json: AsJson = False,
) -> None:
    """Set the int8 ranges by images (NNCF post-training quantization); `convert --precision int8` takes the result."""
    from edgevit.quantization.mixed_precision import HEADER, row

    result = edgevit.quantize(
        model, weights=weights, data=data, out=out, samples=samples, input_size=input_size, max_drop=max_drop
    )
    if result.kept_in_float and not as_json:
        print("kept in float:")
        print_table(HEADER, [row(cost) for cost in result.kept_in_float])
    print_checkpoint(result, as_json=as_json)
