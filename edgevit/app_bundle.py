"""Copies artifacts into the apps, which read every fact from the manifest inside."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.errors import MissingDependency, UsageError, unknown_name
from edgevit.infra.files import atomic_folder, storage_errors
from edgevit.log import logger, stage
from edgevit.verification.checks import examine_file
from edgevit.verification.phone_settings import audit_of, execution_of, file_without_manifest

if TYPE_CHECKING:
    from edgevit.contract.manifest import SettingsRun

# App -> the git-ignored folder that its build packs, and the targets whose runtime it holds.
APPS = {
    "android": (Path("apps/android/app/src/main/assets/edgevit"), ("executorch", "tflite")),
    "ios": (Path("apps/ios/App/Models"), ("coreml", "executorch")),
}


@dataclass(frozen=True, slots=True)
class Bundled:
    """An artifact in an app: the copy's folder, and every way in which the file was run as it is there."""

    artifact: str
    path: Path
    executed: tuple[SettingsRun, ...]


def bundle(app: str, artifact: Artifact | str | Path, *, root: str | Path = ".", unverified: bool = False) -> Bundled:
    """Copy one artifact, whole and verified, into an app of the checkout at `root`.

    app: "android" or "ios". artifact: an Artifact or its folder. A file of a target whose runtime is built otherwise in
    apps is looked at and run as it is there; unverified: take one that cannot be run so here. An older copy of the same
    name is replaced in one step.
    Raises UsageError for an unknown app, a target that the app has no runtime for, a model file without a manifest, and
    a file that could not be run as in apps unless `unverified`; ContractError for a damaged artifact, ParityError for a
    file that is wrong or crashes in apps, StorageError if the copy cannot be written.
    """
    if app not in APPS:
        raise unknown_name("app", app, APPS)
    folder, targets = APPS[app]
    one = artifact if isinstance(artifact, Artifact) else _opened(artifact)
    if one.manifest.target not in targets:
        raise UsageError(
            f"the {app} app has no runtime for {one.manifest.target}", fix=f"convert to {' or '.join(targets)}"
        )
    app_folder = Path(root) / "apps" / app
    if not app_folder.is_dir():
        raise UsageError(f"no {app_folder} here", fix="run in a checkout of edgevit, or give it with --root")
    executed = _executed(one, unverified=unverified)
    destination = Path(root) / folder / one.name
    with atomic_folder(destination) as building, storage_errors(destination):
        shutil.copytree(one.path, building, dirs_exist_ok=True)
        load_artifact(building)  # the copy, too, has the hashes of the manifest
    return Bundled(one.name, destination, executed)


def _executed(artifact: Artifact, *, unverified: bool) -> tuple[SettingsRun, ...]:
    """Every way in which the file was run as in apps; raises what went wrong or could not be run, as `bundle`."""
    executed: tuple[SettingsRun, ...] = ()
    name = artifact.name
    try:
        audit = audit_of(artifact)
        if audit is None:
            return ()
        with stage("execute", artifact=name) as running:
            execution = execution_of(artifact)
            executed, unproven = execution.rows, execution.unproven
            running.result = execution.summary()
    except MissingDependency as error:
        unproven = error.message
    else:
        for failure in (audit.failure(name, artifact.remake), execution.failure):
            if failure is not None:
                raise failure
    if unproven and not unverified:
        raise UsageError(
            f"{name} was not run under the settings of phones: {unproven}",
            fix="bundle it where that is possible, or take it as it is with --unverified",
        )
    if unproven:
        logger.warning("WARNING   %s goes into the app unverified: %s", name, unproven)
    return executed


def _opened(path: str | Path) -> Artifact:
    """The artifact at a path. A model file alone is checked all the same, then refused: apps know only manifests."""
    file = file_without_manifest(path)
    if file is None:
        return load_artifact(path)
    examine_file(file).require()
    raise UsageError(
        f"{file} came without a manifest, and the apps read every fact from one",
        fix="convert the model with edgevit, and bundle the folder that it writes",
    )
