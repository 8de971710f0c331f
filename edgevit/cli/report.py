"""edgevit report: everything built and measured in a folder as one page, tables and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder that holds artifact folders and their results/.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into [default: FOLDER].")] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="html, md, csv or json; may be repeated [default: all].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of paths.")] = False,
) -> None:
    """Write report.html, report.md, report.csv and report.json from manifests and results."""
    from edgevit.report import FORMATS
    from edgevit.report import report as write_report

    written = write_report(folder, out, format or FORMATS)
    if json:
        import json as json_module

        typer.echo(json_module.dumps({"schema": "edgevit.report_paths", "paths": [str(path) for path in written]}))
    else:
        typer.echo("\n".join(str(path) for path in written))
