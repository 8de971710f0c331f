"""Artifacts by what they were made from, so that an unchanged input is a copy instead of a conversion.

FOLDER/KEY/ holds one artifact and entry.json: its name, its size and the files that a user's model file read.
Every copy is held to the manifest's hashes before it counts. Trouble with the cache costs time, never a conversion.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.contract.manifest import FILE_NAME
from edgevit.conversion.file_tracking import unchanged
from edgevit.errors import ContractError, StorageError, UsageError
from edgevit.infra.files import atomic_folder, list_files, sha256_file, write_json
from edgevit.log import logger

DEFAULT_LIMIT_GB = 5.0
_FACTS = "entry.json"
_ABANDONED_S = 86400.0  # after a day, a half-written entry belongs to a process that was killed
_OUTPUT_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class ArtifactCache:
    """One folder of artifacts, shared by all processes of a user; the least recently used go first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._usable = True

    def fetch(self, key: str, out: Path) -> Artifact | None:
        """Put the artifact of `key` into `out`, whole and verified; None if there is none, or no longer a good one.

        One that lies in `out` already is left untouched. Raises StorageError if `out` cannot be written.
        """
        entry = self.folder / key
        try:
            inode = entry.stat().st_ino
        except OSError:
            return None
        try:
            facts = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
            name, dependencies = facts["name"], dict(facts["dependencies"])
            if name != Path(name).name:
                raise ValueError(f"{name!r} is no artifact's name")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._drop(entry, inode, f"{entry / _FACTS}: {error}")
            return None
        if not unchanged(dependencies):
            return None
        try:
            artifact = _place(entry / name, out / name)
        except ContractError as error:
            self._drop(entry, inode, error.message)
            return None
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) in _OUTPUT_TROUBLE:
                raise
            self._drop(entry, inode, error.message)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry / _FACTS)
        return artifact

    def store(self, key: str, artifact: Artifact, manifest_sha256: str, dependencies: dict[str, str]) -> None:
        """Keep a copy of a fresh artifact and drop the oldest beyond the limit; a warning if that is impossible.

        manifest_sha256: of the manifest as it was written, so that a folder that another process replaced
        meanwhile is not taken for this one.
        """
        if sum(file.size_bytes for file in artifact.manifest.files) > self.limit_bytes:
            return
        with self._lock:
            if not self._usable:
                return
            try:
                with atomic_folder(self.folder / key) as building:
                    _copy(artifact.path, building / artifact.name)
                    load_artifact(building / artifact.name)
                    if sha256_file(building / artifact.name / FILE_NAME) != manifest_sha256:
                        raise ContractError(f"{artifact.path} was replaced by another conversion")
                    size = sum((building / path).stat().st_size for path in list_files(building))
                    facts = {"name": artifact.name, "size_bytes": size, "dependencies": dependencies}
                    write_json(building / _FACTS, facts)
                self._trim()
            except (StorageError, ContractError) as error:
                if (self.folder / key / _FACTS).is_file():  # another process stored the same
                    return
                self._usable = False
                logger.warning("WARNING   nothing is cached: %s", error.message)

    def _trim(self) -> None:
        """Remove entries, the least recently used first, until the rest fits; and what killed processes left."""
        entries = []
        for folder in list(self.folder.iterdir()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if folder.name.startswith("."):
                    if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                        shutil.rmtree(folder, ignore_errors=True)
                    continue
                facts = folder / _FACTS
                entries.append((facts.stat().st_mtime_ns, int(json.loads(facts.read_text())["size_bytes"]), folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self.limit_bytes:
                return
            self._remove(folder)
            total -= size

    def _drop(self, entry: Path, inode: int, reason: str) -> None:
        """Remove a damaged entry; one that another process replaced or evicted while it was read is not damaged."""
        with contextlib.suppress(OSError):
            if entry.stat().st_ino == inode:
                logger.warning("WARNING   a cached artifact is damaged and converted anew: %s", reason)
                self._remove(entry)

    def _remove(self, entry: Path) -> None:
        """Out of sight in one step, so that no reader takes a half-removed entry for a damaged one."""
        with contextlib.suppress(OSError):
            retired = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{entry.name}.retired-"))
            try:
                os.replace(entry, retired / entry.name)
            finally:
                shutil.rmtree(retired, ignore_errors=True)


def open_cache() -> ArtifactCache | None:
    """The user's cache: EDGEVIT_CACHE, or edgevit in XDG_CACHE_HOME or ~/.cache; None if EDGEVIT_CACHE is empty.

    EDGEVIT_CACHE_GB bounds its size. Raises UsageError if that is no number.
    """
    chosen = os.environ.get("EDGEVIT_CACHE")
    if chosen == "":
        return None
    limit = os.environ.get("EDGEVIT_CACHE_GB") or str(DEFAULT_LIMIT_GB)
    try:
        limit_bytes = int(float(limit) * 1e9)
    except (ValueError, OverflowError):
        raise UsageError(f"EDGEVIT_CACHE_GB={limit} is no number", fix="set it to gigabytes, such as 5") from None
    if chosen is not None:
        return ArtifactCache(Path(chosen).absolute(), limit_bytes)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return ArtifactCache(Path(home).absolute() / "edgevit", limit_bytes)


def _place(stored: Path, destination: Path) -> Artifact:
    """A complete copy, not links: whoever edits the artifact later must not edit the cache."""
    with contextlib.suppress(OSError, ContractError):
        if (stored / FILE_NAME).read_bytes() == (destination / FILE_NAME).read_bytes():
            return load_artifact(destination)
    with atomic_folder(destination) as building:
        _copy(stored, building)
        manifest = load_artifact(building).manifest
    return Artifact(destination, manifest)


def _copy(source: Path, destination: Path) -> None:
    for path in list_files(source):
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, destination / path)
