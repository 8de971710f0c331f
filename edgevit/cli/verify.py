"""`edgevit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.options import Accelerator, AsJson, Threads, Weights, print_executed, print_json, print_table

if TYPE_CHECKING:
    from edgevit.artifacts.artifact import Artifact
    from edgevit.verification.checks import Verification
    from edgevit.verification.qparams_report import QParamsReport


def verify(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Artifact folders, or model files without a manifest.", show_default=False)
    ],
    interpreter: Annotated[
        bool, typer.Option("--interpreter", help="Also compare Core ML with the reference interpreter.")
    ] = False,
    weights: Weights = None,
    model: Annotated[
        str | None, typer.Option("--model", help="file.py:factory of a model of your own.", show_default=False)
    ] = None,
    accelerator: Accelerator = None,
    threads: Threads = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results; default: results/ beside the artifact.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check files, format and preprocessing, run the artifact, compare it with its checkpoint.

    What it should answer is stored beside it; `edgevit evaluate` scores it on labelled images. An ExecuTorch file is
    also run as phones' builds of its runtime do, each of their settings in turn; one that came without a manifest is
    held to itself. With --weights each form on the way from checkpoint to file answers too: what became of the answers,
    step by step. And int8 grids are read back from the file and compared with the checkpoint's.
    """
    from edgevit.artifacts.artifact import load_artifact
    from edgevit.contract.manifest import Tolerance
    from edgevit.infra.files import write_json
    from edgevit.verification.phone_settings import file_without_manifest
    from edgevit.verification.qparams_report import require_equal

    documents = []
    for one in [file_without_manifest(path) or load_artifact(path) for path in artifacts]:
        result, scales = _examined(one, weights, model, accelerator, threads, interpreter)
        if not as_json:
            _show(result, scales)
        folder = (one if isinstance(one, Path) else one.path).parent / "results"
        write_json((out or folder) / f"{result.artifact}.verify.json", result.to_json())
        documents.append(result.to_json())
        result.require(Tolerance() if isinstance(one, Path) else one.manifest.tolerance)  # a miss is a result, too
        if scales is not None:
            require_equal(scales)
    if as_json:
        print_json(documents)


def _examined(
    one: Artifact | Path,
    weights: Path | None,
    model: str | None,
    accelerator: str | None,
    threads: int,
    interpreter: bool,
) -> tuple[Verification, QParamsReport | None]:
    """The result of an artifact, or of a model file without a manifest, and its grids where there are weights."""
    from edgevit.log import stage
    from edgevit.quantization.weight_storage import has_qparams
    from edgevit.verification.checks import examine, examine_file
    from edgevit.verification.qparams_report import inspect_qparams
    from edgevit.verification.reference_stages import open_stages

    scales = None
    with stage("verify", artifact=one.name) as running:
        if isinstance(one, Path):
            result = examine_file(one)
        else:
            stages = None if weights is None else open_stages(one, weights, model)
            result = examine(
                one, accelerator=accelerator, threads=threads, interpreter=interpreter, stages=stages, settings=True
            )
            if weights is not None and has_qparams(one.manifest):
                scales = inspect_qparams(one, weights=weights, model=model)
                result.checks["qparams"] = scales.summary()
        running.result = result.summary()
    return result, scales


def _show(result: Verification, scales: QParamsReport | None) -> None:
    from edgevit.verification import error_breakdown

    print(f"{result.artifact}: {result.summary()}")
    if scales is not None:
        print(f"scales: {scales.summary()}")
    if result.drift:
        print_table(error_breakdown.header(result.drift), [error_breakdown.row(step) for step in result.drift])
    print_executed(result.artifact, result.executed)
