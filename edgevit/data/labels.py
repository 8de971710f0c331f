"""Class names in a text file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edgevit.errors import UsageError

# Line breaks, control and direction characters, which a screen would not show or would show elsewhere; the manifest's
# schema refuses them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def require_one_line(labels: Iterable[str]) -> None:
    """Raise UsageError for a label that is more than a line of text."""
    for label in labels:
        if _UNSEEN.search(label):
            raise UsageError(
                f"label {label!r} holds a line break, control or direction character",
                fix="give the labels as plain text, one a line, with --labels",
            )


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
