"""`edgevit bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bundle(
    app: Annotated[str, typer.Argument(help="android or ios.", show_default=False)],
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.", show_default=False)],
    root: Annotated[Path, typer.Option("--root", help="Checkout that holds apps/.")] = Path("."),
) -> None:
    """Copy artifacts into the Android or iOS app; prints where each one went."""
    from edgevit.bundling import bundle as bundle_artifact

    for artifact in artifacts:
        print(bundle_artifact(app, artifact, root=root))
