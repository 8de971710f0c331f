"""Errors a user can cause or fix: each has one line, one fix and one exit code.

`edgevit.cli.main` alone turns them into output. Anything else that escapes is a bug and shows its trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgevitError(Exception):
    """Base of all errors with a fix. `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


class UsageError(EdgevitError):
    """A wrong argument, name, image, label file or checkpoint."""

    exit_code = 2


class MissingDependency(EdgevitError):
    """An optional library is absent; the fix is the command that installs it."""

    exit_code = 3


class ExportError(EdgevitError):
    """The network cannot become a Program; names the op and its module path."""

    exit_code = 4


class QuantizationError(EdgevitError):
    """A tensor cannot be quantized: its range is empty, not finite, or not known."""

    exit_code = 4


class ConversionError(EdgevitError):
    """A converter refused or failed; names every op it cannot take."""

    exit_code = 4


class ParityError(EdgevitError):
    """An artifact does not compute what its checkpoint computes, here or as phones run it; carries the numbers."""

    exit_code = 5

    def __init__(self, message: str, fix: str = "", parity: object | None = None) -> None:
        super().__init__(message, fix)
        self.parity = parity


class DeviceError(EdgevitError):
    """A device, or the process that runs an artifact on it, failed."""

    exit_code = 6


class ContractError(EdgevitError):
    """A manifest, job, report or golden vector breaks its schema, or a file its hash."""

    exit_code = 7


class StorageError(EdgevitError):
    """An output folder cannot be written or its disk is full; nothing half-written stays."""

    exit_code = 8


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError for a name that does not exist, with the nearest names that do."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(near)}?" if near else f"one of: {', '.join(known)}"
    return UsageError(f"unknown {kind} {name!r}", fix=fix)
