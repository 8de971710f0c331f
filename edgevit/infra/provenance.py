"""Where and with what something was made: versions, platform, commit."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgevit._version import __version__
from edgevit.errors import DeviceError
from edgevit.infra import process
from edgevit.infra.optional_imports import version


def provenance(packages: Iterable[str]) -> dict[str, Any]:
    """Tool versions, edgevit's version and commit, Python, platform and time: what every manifest carries."""
    tools = ("edgevit", "torch", "numpy", *packages)
    return {
        "tools": {name: version(name) for name in tools},
        "edgevit_version": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "created_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def git_commit() -> str | None:
    """Commit of the checkout that this code lies in, with "+" if it was edited; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = process.run(["git", "-C", root, "rev-parse", "HEAD"], timeout_s=10)
        edits = process.run(["git", "-C", root, "status", "--porcelain", "--untracked-files=no"], timeout_s=30)
    except DeviceError:  # no git on this machine: the version must do
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if edits.stdout.strip() else "")


def cpu_name() -> str | None:
    """What this machine's processor calls itself, None if it does not."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or None
