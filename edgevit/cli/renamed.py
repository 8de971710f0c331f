"""Commands and options that have another name now: each is refused by one line that names the new one."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.errors import UsageError

COMMANDS = {"scales": "qparams"}
_USAGES = {"qparams": "ARTIFACT --weights CHECKPOINT"}
OPTIONS = {("qparams", "--against"): "--weights", ("debug", "--against"): "--reference"}


def refuse_renamed(command: str, arguments: Sequence[str]) -> None:
    """Raise UsageError for an old command, or an old option of one, that names what to write instead."""
    if command in COMMANDS:
        new = COMMANDS[command]
        raise UsageError(
            f"`edgevit {command}` is called `edgevit {new}` now", fix=f"write edgevit {new} {_USAGES[new]}"
        )
    for argument in arguments:
        option = argument.partition("=")[0]
        if (command, option) in OPTIONS:
            new = OPTIONS[command, option]
            raise UsageError(f"{option} of `edgevit {command}` is called {new} now", fix=f"write {new}")
