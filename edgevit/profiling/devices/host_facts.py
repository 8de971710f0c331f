"""Facts of the machine that Python runs on."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

from edgevit.contract.raw_report import DeviceInfo
from edgevit.infra.provenance import cpu_name

_PRODUCT_FILES = ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name")  # boards, then PCs


def describe_host() -> DeviceInfo:
    """Facts of this machine; the product's name, never the host's, because reports are published."""
    return DeviceInfo(
        name=_product() or f"{platform.system()} {platform.machine()}",
        os=platform.system(),
        os_version=platform.release() or None,
        cpu=cpu_name(),
        cores=os.cpu_count(),
        arch=platform.machine() or None,
        memory_bytes=_memory_bytes(),
        python_version=platform.python_version(),
        page_size_bytes=_sysconf("SC_PAGE_SIZE"),
    )


def load_average() -> float | None:
    """Runnable tasks, mean over the last minute; None where the system does not count them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process until now; None where the system does not report it.

    Linux: VmHWM, because getrusage's maximum survives exec there and may be the parent's.
    """
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def _product() -> str | None:
    for path in _PRODUCT_FILES:
        for line in _lines(path):
            if name := line.strip("\0 \t"):
                return name
    return None


def _memory_bytes() -> int | None:
    page_bytes, pages = _sysconf("SC_PAGE_SIZE"), _sysconf("SC_PHYS_PAGES")
    return None if page_bytes is None or pages is None else page_bytes * pages


def _sysconf(name: str) -> int | None:
    """A number that the system is asked for by name; None where it does not know the name, or of no such call."""
    try:
        return os.sysconf(name)
    except (AttributeError, ValueError, OSError):
        return None


def _lines(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text(errors="replace").splitlines()
    return []
