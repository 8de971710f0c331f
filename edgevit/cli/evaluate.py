"""`edgevit evaluate`."""

from __future__ import annotations

import edgevit
from edgevit.cli.options import (
    Accelerator,
    ArtifactPaths,
    AsJson,
    Data,
    ModelFile,
    ResultsFolder,
    Split,
    Threads,
    Weights,
    print_json,
    print_table,
)


def evaluate(
    artifacts: ArtifactPaths,
    data: Data,
    weights: Weights = None,
    model: ModelFile = None,
    split: Split = "test",
    accelerator: Accelerator = None,
    threads: Threads = 1,
    out: ResultsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Score artifacts on labelled images, and with --weights their checkpoint on the same ones."""
    from edgevit.verification import error_breakdown
    from edgevit.verification.evaluation import header, row

    results = edgevit.evaluate(
        artifacts,
        data=data,
        weights=weights,
        model=model,
        split=split,
        accelerator=accelerator,
        threads=threads,
        out=out,
        strict=False,  # what was found is shown, right or wrong
    )
    if as_json:
        print_json([result.to_json() for result in results])
    else:
        print_table(header(results), [row(result) for result in results])
        for result in (result for result in results if result.error_breakdown):
            print(f"\n{result.artifact}, each stage against the one before:")
            stages = result.error_breakdown
            print_table(error_breakdown.header(stages), [error_breakdown.row(one) for one in stages])
    for result in results:
        result.require()
