"""Copies artifacts into the apps, which read every fact from the manifest inside."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgevit.artifact import Artifact, load_artifact
from edgevit.errors import UsageError, unknown_name
from edgevit.storage import atomic_folder, storage_errors

# App -> the git-ignored folder that its build packs, and the targets whose runtime it holds.
APPS = {
    "android": (Path("apps/android/app/src/main/assets/edgevit"), ("executorch", "tflite")),
    "ios": (Path("apps/ios/App/Models"), ("coreml", "executorch")),
}


def bundle(app: str, artifact: Artifact | str | Path, *, root: str | Path = ".") -> Path:
    """Copy one artifact, whole and verified, into an app of the checkout at `root`; returns the copy's folder.

    An older copy of the same name is replaced in one step. Raises UsageError for an unknown app or a target that
    the app has no runtime for, ContractError for a damaged artifact, StorageError if it cannot be written.
    """
    if app not in APPS:
        raise unknown_name("app", app, APPS)
    folder, targets = APPS[app]
    opened = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    if opened.manifest.target not in targets:
        raise UsageError(
            f"the {app} app has no runtime for {opened.manifest.target}", hint=f"convert to {' or '.join(targets)}"
        )
    app_folder = Path(root) / "apps" / app
    if not app_folder.is_dir():
        raise UsageError(f"no {app_folder} here", hint="run in a checkout of edgevit, or give it with --root")
    destination = Path(root) / folder / opened.name
    with atomic_folder(destination) as building, storage_errors(destination):
        shutil.copytree(opened.path, building, dirs_exist_ok=True)
        load_artifact(building)
    return destination
