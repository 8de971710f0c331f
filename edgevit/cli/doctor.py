"""`edgevit doctor`."""

from __future__ import annotations

import edgevit
from edgevit.cli.options import AsJson, print_json, print_table


def doctor(as_json: AsJson = False) -> None:
    """Which targets and devices work here, what is missing, and the command that fixes it."""
    from edgevit.environment import to_json

    findings = edgevit.doctor()
    if as_json:
        print_json(to_json(findings))
        return
    print_table(
        ("", "kind", "name", "detail"),
        [("ok" if f.works else "--", f.kind, f.name, f.detail) for f in findings],
    )
    for finding in findings:
        if finding.fix:
            print(f"\n{finding.name}: fix it with\n    {finding.fix}")
