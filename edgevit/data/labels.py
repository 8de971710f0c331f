"""Class names in a text file."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import UsageError


def read_labels(path: Path) -> tuple[str, ...]:
    """One label per line; blank lines at the end do not count. UsageError if unreadable or empty."""
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read labels {path}: {error}", fix="give a UTF-8 text file, one label a line"
        ) from error
    if not lines:
        raise UsageError(f"labels {path} is empty", fix="write one label a line")
    return tuple(line.strip() for line in lines)
