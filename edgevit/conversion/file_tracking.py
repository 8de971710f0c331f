"""Which files a user's own model file read while it was loaded, as a compiler notes the headers it saw."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import FrameType
from typing import Any

from edgevit.compat.python import LOAD_MODULE, READ_CODE, loaded_file
from edgevit.conversion.cache_key import package_folders
from edgevit.infra.files import sha256_file

# What brings data into a process without a file being opened where Python sees it.
_BEYOND_FILES = frozenset(
    {
        "os.exec",
        "os.posix_spawn",
        "os.system",
        "socket.connect",
        "sqlite3.connect",
        "subprocess.Popen",
        "urllib.Request",
    }
)
_NATIVE_READERS = ("h5py", "safetensors")  # they open files themselves, unseen
_NOT_FILES = ("/dev", "/proc", "/sys")
_NO_INPUT = ("__main__", "__mp_main__", "sitecustomize", "usercustomize")  # multiprocessing's name of the script, too
_loaded: dict[Path, str] = {}  # modules that this process imported under observation -> hash of that moment
_active: list[Dependencies] = []
_hooked = False


class _Owner(Enum):
    """Whose a piece of code is."""

    PYTHON = auto()
    DISTRIBUTION = auto()
    USER = auto()


@dataclass
class Dependencies:
    """Files that were read -> SHA-256, "" for those looked for in vain; `doubt`: why they may not be all, or ""."""

    files: dict[str, str] = field(default_factory=dict)
    doubt: str = ""
    opened: set[str] = field(default_factory=set)


@contextmanager
def record_dependencies(
    packages: tuple[str, ...], declared: tuple[Path, ...], *, weights_given: bool = False
) -> Iterator[Dependencies]:
    """Note every file read in this block: local modules that are imported, weights or tables that code opens.

    Installed distributions, `packages` and the files in `declared` are left out: a conversion key holds them.
    So is what a distribution opens, starts or connects to while it is imported; what its functions do counts.
    With `weights_given` every tensor comes from a declared file, so native tensor loaders raise no doubt.
    The result is complete when the block has ended. Environment variables and the clock leave no trace.
    """
    _listen()
    outside = _installed() + [folder.resolve() for package in packages for folder in package_folders(package)]
    outside += [path.resolve() for path in declared]
    before = _local_modules(outside)
    recorded = Dependencies()
    _active.append(recorded)
    try:
        yield recorded
    finally:
        _active.remove(recorded)
    fresh = {path: name for path, name in _local_modules(outside).items() if path not in before}
    opened = {Path(path).resolve() for path in recorded.opened}
    read = {path for path in opened if not _within(path, outside)}
    for path in sorted({*before, *fresh, *read}):
        if path.is_dir():
            continue
        digest = _digest(path)
        if path in fresh:
            _loaded[path] = digest
        elif path in before and _loaded.get(path) != digest:
            recorded.doubt = recorded.doubt or f"{before[path]} was imported earlier and may differ from its file"
        recorded.files[str(path)] = digest
    unseen = [name for name in _NATIVE_READERS if name in sys.modules]
    if unseen and not weights_given and not recorded.doubt:
        recorded.doubt = f"{unseen[0]} may have read files unseen"


def unchanged(files: dict[str, str]) -> bool:
    """Whether every recorded file still has its hash."""
    return all(_digest(Path(path)) == digest for path, digest in files.items())


def _listen() -> None:
    """An audit hook stays for the life of the process, so there is one, idle between recordings."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_note)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active:
        return
    if event == "open":
        path, mode, flags = arguments
        reads = "r" in mode if isinstance(mode, str) else not flags & (os.O_WRONLY | os.O_CREAT)
        if reads and isinstance(path, (str, bytes, os.PathLike)):
            _note_opened(os.path.abspath(os.fsdecode(path)), sys._getframe().f_back)
    elif event in _BEYOND_FILES and not _imports_distribution(sys._getframe().f_back):
        for recorded in _active:
            recorded.doubt = recorded.doubt or f"its code calls {event}"


def _note_opened(path: str, frame: FrameType | None) -> None:
    """Code that is read to be run counts in any case: a library may load a user's file while it is imported."""
    if path.endswith(".pyc"):
        return
    if (frame is not None and frame.f_code is READ_CODE) or not _imports_distribution(frame):
        for recorded in _active:
            recorded.opened.add(path)


def _imports_distribution(frame: FrameType | None) -> bool:
    """Whether `frame` runs because a module of an installed distribution is imported, with no user's code in between.

    Walks outwards: whoever asked for the innermost import only chose what to import, and is not looked at. A thread
    that an import started has no import on its stack, so that what it does counts as a user's.
    """
    while frame is not None:
        loads = frame.f_code is LOAD_MODULE
        owner = _owner(loaded_file(frame) if loads else frame.f_code.co_filename)
        if owner is _Owner.USER:
            return False
        if loads and owner is _Owner.DISTRIBUTION:
            return True
        frame = frame.f_back
    return False


@functools.cache
def _owner(file: str) -> _Owner:
    """Whose code `file` is: a user's if its name does not show it.

    edgevit's own counts as that too, so that an installed edgevit that calls a user's model is no library at import.
    """
    if file.startswith("<frozen ") and file[len("<frozen ") : -1].partition(".")[0] in sys.stdlib_module_names:
        return _Owner.PYTHON
    path = Path(file)
    if not path.is_absolute() or _within(path.resolve(), [Path(__file__).resolve().parents[1]]):
        return _Owner.USER
    if _within(path.resolve(), _site_folders()):
        return _Owner.DISTRIBUTION
    return _Owner.PYTHON if _within(path.resolve(), _standard_library()) else _Owner.USER


def _installed() -> list[Path]:
    """Where the standard library and distributions lie: their versions identify their content."""
    return _standard_library() + _site_folders() + [Path(folder).resolve() for folder in _NOT_FILES]


@functools.cache
def _standard_library() -> list[Path]:
    """Holds site-packages too, as a rule."""
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]


@functools.cache
def _site_folders() -> list[Path]:
    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return [Path(folder).resolve() for folder in [*folders, *site.getsitepackages(), site.getusersitepackages()]]


def _local_modules(outside: list[Path]) -> dict[Path, str]:
    """Files of imported modules that no installed distribution brought -> module name."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and name not in _NO_INPUT:
            path = Path(file).resolve()
            if not _within(path, outside):
                found[path] = name
    return found


def _within(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return ""
