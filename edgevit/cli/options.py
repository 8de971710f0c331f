"""Arguments that several commands share, and how they print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgevit.contract.manifest import SettingsRun

ArtifactPath = Annotated[Path, typer.Argument(help="Artifact folder that `edgevit convert` wrote.", show_default=False)]
ArtifactPaths = Annotated[
    list[Path], typer.Argument(help="Artifact folders that `edgevit convert` wrote.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Checkpoint: .pt, .pth or .safetensors.", show_default=False)
]
ModelFile = Annotated[
    str | None, typer.Option("--model", help="file.py:factory of a model of your own.", show_default=False)
]
Classes = Annotated[
    int | None,
    typer.Option("--classes", help="Classes of your task; by default those of the checkpoint.", show_default=False),
]
ResultsFolder = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the results; default: results/ beside the artifact.", show_default=False),
]
Split = Annotated[str, typer.Option("--split", help="Part of the data: test or train.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help='"digits", "photos", "tiles", or a folder with train/ and test/, each with one subfolder per class, '
        "or with images/ and masks/.",
        show_default=False,
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option("--input-size", help="Pixels of each side; default: the model's own.", show_default=False),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Training images that set the int8 ranges.")]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help="Passes over the training set; default: the recipe's.", show_default=False),
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Peak; default: the recipe's.", show_default=False)
]
TrainingThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.", show_default=False)
]
Devices = Annotated[int, typer.Option("--devices", min=1, help="GPUs, or processes on the CPU, that share each batch.")]
Logs = Annotated[
    Path | None,
    typer.Option("--logs", help="Folder for metrics.csv and TensorBoard; default: none.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was killed, given the same arguments.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0.0,
        help="Percentage points of top-1 or mIoU that int8 may cost; where it costs more, layers are kept in float.",
        show_default=False,
    ),
]
Accelerator = Annotated[
    str | None,
    typer.Option(
        "--accelerator",
        help="Where to run: cpu, gpu, npu, ane, cuda; default: what the artifact was made for.",
        show_default=False,
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="CPU threads of the runtime.")]


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_checkpoint(result: Any, *, as_json: bool) -> None:
    """The checkpoint's path, or with `as_json` all fields of the result that a training or quantization gave."""
    if as_json:
        print_json(dataclasses.asdict(result) | {"checkpoint": str(result.checkpoint)})
    else:
        print(result.checkpoint)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `table_lines`."""
    print("\n".join(table_lines(header, rows)))


def print_executed(name: str, executed: Sequence[SettingsRun], *, aside: bool = False) -> None:
    """A row for each way in which an artifact was run; nothing if it was run in no other way than its parity states.

    aside: on stderr, where something else is what was asked for.
    """
    if not executed:
        return
    runtime, cpu = executed[0].runtime, executed[0].settings.get("cpu")
    where = f" on {cpu}" if cpu else ""
    settings = [setting for setting in executed[0].settings if setting != "cpu"]
    rows = [
        (*(row.settings[setting] for setting in settings), row.outcome, *_numbers(row), row.reason or "")
        for row in executed
    ]
    header = (*(setting.replace("_", " ") for setting in settings), "outcome", "rel. error", "dB", "")
    lines = [
        f"\n{name} under the settings of phones, {runtime.name} {runtime.version}{where}:",
        *table_lines(header, rows),
    ]
    print("\n".join(lines), file=sys.stderr if aside else sys.stdout)


def _numbers(row: SettingsRun) -> tuple[str, str]:
    error = "" if row.max_relative_error is None else f"{row.max_relative_error:.1e}"
    return error, "" if row.snr_db is None else f"{row.snr_db:.1f}"


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned by spaces; columns of numbers to the right."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell in ("", "-")
