"""`edgevit lint`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.options import AsJson, print_json, print_table

if TYPE_CHECKING:
    from edgevit.mil.lint import Finding


def lint(
    artifact: Annotated[
        Path, typer.Argument(help="Core ML artifact folder, or any .mlpackage with an ML Program.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Check a Core ML package without running it: versions, ops, precision, shapes, weights, labels, metadata.

    Warnings name what may be slow or doubtful; an error-level finding makes the command fail.
    """
    from edgevit.errors import ContractError
    from edgevit.mil.lint import Level

    findings = _findings(artifact)
    if as_json:
        document = {"schema": "edgevit.lint", "schema_version": 1, "artifact": str(artifact)}
        print_json(document | {"findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        print_table(("level", "rule", "where", "finding"), [(f.level, f.rule, f.where, f.message) for f in findings])
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    if errors:
        raise ContractError(
            f"{artifact}: {len(errors)} error(s), the first: {errors[0].message}",
            fix="mend the model and convert again",
        )


def _findings(artifact: Path) -> list[Finding]:
    from edgevit.artifacts.artifact import load_artifact
    from edgevit.contract.manifest import FILE_NAME
    from edgevit.errors import UsageError
    from edgevit.mil.lint import lint as lint_package
    from edgevit.targets.registry import get_converter

    if not (artifact / FILE_NAME).is_file():
        return lint_package(artifact)
    opened = load_artifact(artifact)
    if not get_converter(opened.manifest.target).ml_program:
        raise UsageError(f"{artifact} is a {opened.manifest.target} artifact", fix="lint reads Core ML packages")
    return lint_package(artifact / opened.manifest.entry, manifest=opened.manifest)
