"""`edgevit bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.options import print_executed


def bundle(
    app: Annotated[str, typer.Argument(help="android or ios.", show_default=False)],
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.", show_default=False)],
    root: Annotated[Path, typer.Option("--root", help="Checkout that holds apps/.")] = Path("."),
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Take a file that cannot be run here as apps run it.")
    ] = False,
) -> None:
    """Copy artifacts into the Android or iOS app; prints where each one went.

    An ExecuTorch file is first run as the runtimes of apps do, under each of their settings.
    """
    from edgevit.app_bundle import plan_bundle

    for artifact in artifacts:
        plan = plan_bundle(app, artifact, root=root)
        executed = plan.execute(unverified=unverified)
        print(plan.copy())
        print_executed(plan.artifact.name, executed)
