"""`lint`: static checks of a Core ML package, as an artifact or alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.artifacts.artifact import Artifact, opened
from edgevit.contract.manifest import FILE_NAME
from edgevit.contract.schema import VERSION
from edgevit.errors import ContractError, UsageError
from edgevit.targets.registry import get_converter

if TYPE_CHECKING:
    from edgevit.mil.lint import Finding


@dataclass(frozen=True, slots=True)
class LintReport:
    """What the rules found in a package, errors first."""

    artifact: str
    findings: tuple[Finding, ...]

    def require(self) -> None:
        """Raise ContractError if a finding is an error."""
        from edgevit.mil.lint import Level

        errors = [finding for finding in self.findings if finding.level is Level.ERROR]
        if errors:
            raise ContractError(
                f"{self.artifact}: {len(errors)} error(s), the first: {errors[0].message}",
                fix="correct the model and convert again",
            )

    def to_json(self) -> dict[str, Any]:
        """The document as printed, schema edgevit.lint."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return {"schema": "edgevit.lint", "schema_version": VERSION, "artifact": self.artifact, "findings": findings}


def lint(artifact: Artifact | str | Path, *, strict: bool = True) -> LintReport:
    """Check a Core ML package without running it: versions, ops, precision, shapes, weights, labels, metadata.

    artifact: an Artifact that holds an ML Program, or its folder, which is also compared with its manifest; or any
    .mlpackage with an ML Program. strict: raise ContractError for a finding that is an error; without it the caller
    asks `LintReport.require`.
    Raises UsageError for an artifact of another target, ContractError for a package that cannot be read at all.
    """
    from edgevit.mil.lint import lint as lint_package

    if isinstance(artifact, Artifact) or (Path(artifact) / FILE_NAME).is_file():
        one = opened(artifact)
        if not get_converter(one.manifest.target).ml_program:
            raise UsageError(f"{one.path} is a {one.manifest.target} artifact", fix="lint reads Core ML packages")
        name, findings = str(one.path), lint_package(one.path / one.manifest.entry, manifest=one.manifest)
    else:
        name, findings = str(artifact), lint_package(artifact)
    report = LintReport(name, tuple(findings))
    if strict:
        report.require()
    return report
