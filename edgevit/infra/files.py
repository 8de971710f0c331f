"""Files that are either whole or absent: atomic writes, atomic folders, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgevit.errors import StorageError

_CHUNK_BYTES = 1 << 20
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})  # another process put its folder there meanwhile


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a StorageError: one line with the fix."""
    try:
        yield
    except OSError as error:
        in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            fix="a file is in the way: choose another folder (--out)"
            if in_the_way
            else "free disk space, or choose another folder (--out for results, TMPDIR for temporary files)",
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part. Raises StorageError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, document: object) -> None:
    """Write a JSON file atomically, keys in their given order. Not-a-number is refused, not written."""
    write_bytes(path, (json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to fill; on success it becomes `path`, on any error it vanishes.

    An existing `path` is replaced in one step and lost only after its successor stands.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.building-"))
    try:
        yield building
        with storage_errors(path):
            building.chmod(0o755)
            _swap_in(building, path)
    except OSError as error:
        with storage_errors(path):
            raise error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _swap_in(building: Path, path: Path) -> None:
    """Several processes may do this at once: whoever comes last has the place, and nothing else is left behind."""
    retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.retired-"))
    try:
        for turn in itertools.count():
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, retired / str(turn))
            try:
                os.replace(building, path)
                return
            except OSError as error:
                if error.errno in _TAKEN:
                    continue
                with contextlib.suppress(OSError):
                    os.replace(retired / str(turn), path)
                raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(folder: Path) -> list[Path]:
    """All regular files below `folder`, as relative paths in byte order of their POSIX names."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.as_posix().encode())
