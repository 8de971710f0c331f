"""Settings that phones' builds of ExecuTorch run with, switched in this process: the one place that reaches for them.

The Python wheel keeps no packed weights and maps every file; its bindings have no name to change either. The runtime
inside has both: backend options, as `set_option` of its C++ interface, and the loader that reads files instead of
mapping them, which takes the place of the other here. For a process of its own: what is switched stays so.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Mapping
from pathlib import Path

from edgevit.compat.executorch import bindings
from edgevit.infra.optional_imports import version
from edgevit.targets.base import NotSwitchable

_SHARING = {"disabled": 0, "per_model": 1, "global": 2}  # WorkspaceSharingMode
# In the order in which they are tried: the wheel's own way to load first, then what phones do.
SETTINGS: tuple[Mapping[str, str], ...] = tuple(
    {"weights_cache": cache, "workspace_sharing": sharing, "load": load}
    for cache, sharing, load in itertools.product(("off", "on"), _SHARING, ("mmap", "file"))
)
_KNOWN = "1.4."  # versions whose BackendOption and vtables are as below
_BACKEND = b"XnnpackBackend"
_OPTION = "_ZN10executorch7runtime10{}EPKcNS0_4SpanINS0_13BackendOptionEEE"
_VTABLE = "_ZTVN10executorch9extension14MmapDataLoaderE"
_LOAD = "_ZNK10executorch9extension14{}DataLoader4loadEmmRKNS_7runtime10DataLoader11SegmentInfoE"
_VTABLE_ENTRIES = 8


class _Value(ctypes.Union):
    _fields_ = (("boolean", ctypes.c_bool), ("integer", ctypes.c_int32), ("text", ctypes.c_char * 256))


class _Option(ctypes.Structure):
    """runtime/backend/options.h: a key, and a variant of bool (0), int (1) and text (2)."""

    _fields_ = (("key", ctypes.c_char * 64), ("value", _Value), ("kind", ctypes.c_uint8))


class _Span(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


def switch(settings: Mapping[str, str]) -> None:
    """Let models that are loaded from now on be loaded and run under one of SETTINGS.

    Raises NotSwitchable, with the reason, where this runtime does not offer it.
    """
    found = version("executorch") or ""
    if not found.startswith(_KNOWN):
        raise NotSwitchable(f"the switches are known for executorch {_KNOWN}x, this is {found}")
    library = ctypes.CDLL(bindings().__file__)
    for option, wanted in _options(settings).items():
        _set_option(library, option, wanted)
    _load_by(library, "File" if settings["load"] == "file" else "Mmap")


def confirm(settings: Mapping[str, str], path: Path) -> None:
    """Raise NotSwitchable unless the open model file was really loaded under the settings."""
    library = ctypes.CDLL(bindings().__file__)
    for option, wanted in _options(settings).items():
        if (found := _get_option(library, option)) != wanted:
            raise NotSwitchable(f"the runtime kept {option} at {found}, it was asked for {wanted}")
    try:
        mapped = str(path.resolve()) in Path("/proc/self/maps").read_text()
    except OSError:
        raise NotSwitchable("whether a file was mapped or read cannot be seen on this system") from None
    if mapped != (settings["load"] == "mmap"):
        raise NotSwitchable(
            f"the runtime {'mapped' if mapped else 'read'} the file, it was asked for {settings['load']}"
        )


def _options(settings: Mapping[str, str]) -> dict[str, bool | int]:
    return {
        "weight_cache_enabled": settings["weights_cache"] == "on",
        "workspace_sharing_mode": _SHARING[settings["workspace_sharing"]],
    }


def _set_option(library: ctypes.CDLL, name: str, wanted: bool | int) -> None:
    option = _Option(key=name.encode(), kind=int(not isinstance(wanted, bool)))
    if isinstance(wanted, bool):
        option.value.boolean = wanted
    else:
        option.value.integer = wanted
    if error := _call(library, "set_option", option):
        raise NotSwitchable(f"the runtime refused {name}={wanted} (error {error:#x})")


def _get_option(library: ctypes.CDLL, name: str) -> bool | int | None:
    option = _Option(key=name.encode())
    if _call(library, "get_option", option):
        return None
    return option.value.integer if option.kind else option.value.boolean


def _call(library: ctypes.CDLL, name: str, option: _Option) -> int:
    """executorch::runtime::NAME(backend, span of one option); 0 is no error."""
    function = _symbol(library, _OPTION.format(name))
    call = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_char_p, _Span)(function)
    return call(_BACKEND, _Span(ctypes.addressof(option), 1))


def _load_by(library: ctypes.CDLL, loader: str) -> None:
    """Let the loader that maps files load as itself ("Mmap"), or as the one that reads them ("File").

    Both hold the same four fields in the same order: name, size, alignment, open file.
    """
    vtable, wanted = _symbol(library, _VTABLE), _symbol(library, _LOAD.format(loader))
    known = {_symbol(library, _LOAD.format(one)) for one in ("Mmap", "File")}
    entries = (ctypes.c_size_t * _VTABLE_ENTRIES).from_address(vtable)
    places = [place for place, entry in enumerate(entries) if entry in known]
    if len(places) != 1:
        raise NotSwitchable("the runtime's file loaders are not built as expected")
    _make_writable(vtable, ctypes.sizeof(entries))
    entries[places[0]] = wanted


def _make_writable(address: int, size: int) -> None:
    start = address // mmap.PAGESIZE * mmap.PAGESIZE
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(start, address + size - start, mmap.PROT_READ | mmap.PROT_WRITE):
        raise NotSwitchable("this system does not let the runtime's file loader be exchanged")


def _symbol(library: ctypes.CDLL, name: str) -> int:
    """The address of a symbol that the bindings, or what they are linked to, export."""
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except AttributeError:
        raise NotSwitchable(f"the runtime does not export {name}") from None
