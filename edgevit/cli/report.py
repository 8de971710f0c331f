"""`edgevit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import AsJson, print_json


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder that holds artifact folders and their results/.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write into; default: FOLDER.", show_default=False)
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="html, md, csv or json; may be repeated; default: all.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html, report.md, report.csv and report.json over everything built and measured in a folder.

    A number is shown only for the build it was measured on, and a latency only beside an accuracy.
    """
    written = [str(path) for path in edgevit.report(folder, out=out, formats=formats)]
    if as_json:
        from edgevit.contract.schema import VERSION

        print_json({"schema": "edgevit.report_paths", "schema_version": VERSION, "paths": written})
    else:
        print("\n".join(written))
