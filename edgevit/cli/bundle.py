"""`edgevit bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.cli.options import ArtifactPaths, print_executed


def bundle(
    app: Annotated[str, typer.Argument(help="android or ios.", show_default=False)],
    artifacts: ArtifactPaths,
    root: Annotated[Path, typer.Option("--root", help="Checkout that holds apps/.")] = Path("."),
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Take a file that cannot be run here as apps run it.")
    ] = False,
) -> None:
    """Copy artifacts into the Android or iOS app; prints where each one went.

    An ExecuTorch file is first run as the runtimes of apps do, under each of their settings.
    """
    for artifact in artifacts:
        bundled = edgevit.bundle(app, artifact, root=root, unverified=unverified)
        print(bundled.path)
        print_executed(bundled.artifact, bundled.executed)
