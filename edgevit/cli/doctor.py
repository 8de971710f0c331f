"""`edgevit doctor`."""

from __future__ import annotations

from edgevit.cli.options import AsJson, print_json, print_table


def doctor(as_json: AsJson = False) -> None:
    """Which targets and devices work here, what is missing, and the command that mends it."""
    from edgevit.environment import doctor as diagnose
    from edgevit.environment import to_json
    from edgevit.log import stage

    with stage("doctor", importing="every target") as running:
        findings = diagnose()
        running.result = f"{sum(f.works for f in findings)} of {len(findings)} work"
    if as_json:
        print_json(to_json(findings))
        return
    print_table(
        ("", "kind", "name", "detail"),
        [("ok" if f.works else "--", f.kind, f.name, f.detail) for f in findings],
    )
    for finding in findings:
        if finding.fix:
            print(f"\n{finding.name}: mend with\n    {finding.fix}")
