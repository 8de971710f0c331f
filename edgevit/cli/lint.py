"""`edgevit lint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import AsJson, print_json, print_table


def lint(
    artifact: Annotated[
        Path, typer.Argument(help="Core ML artifact folder, or any .mlpackage with an ML Program.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Check a Core ML package without running it: versions, ops, precision, shapes, weights, labels, metadata.

    Warnings name what may be slow or doubtful; an error-level finding makes the command fail.
    """
    report = edgevit.lint(artifact, strict=False)
    if as_json:
        print_json(report.to_json())
    else:
        rows = [(f.level, f.rule, f.where, f.message) for f in report.findings]
        print_table(("level", "rule", "where", "finding"), rows)
    report.require()
