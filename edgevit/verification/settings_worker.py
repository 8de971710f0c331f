"""Runs a model file under settings in turn: `python -m edgevit.verification.settings_worker FOLDER TARGET PARENT`.

In a process of its own, because settings stay switched and a file may end the process that runs it. It imports its
runtime first, then waits for a request in FOLDER; each setting N leaves N.begun, N.npz with the outputs, and N.json,
which show where a process that died got to.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.infra import process
from edgevit.infra.files import storage_errors
from edgevit.targets.base import ModelFile, NotSwitchable
from edgevit.targets.registry import get_converter

if TYPE_CHECKING:
    from edgevit.targets.base import Converter

# How a setting ended that did not end the process; exhausted: out of memory or of disk space.
RAN, NOT_SWITCHED, FAILED, EXHAUSTED = "ran", "not_switched", "failed", "exhausted"
_REQUEST, _INPUTS = "request.json", "inputs.npz"
_POLL_S = 0.02
_THREADS = min(2, os.cpu_count() or 1)  # a conversion waits for this; the number does not change what kernels compute

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Request:
    """A file, the inputs to run, and the places of the settings to try, each for at most limit_s."""

    folder: Path
    file: ModelFile
    inputs: Sequence[Arrays]
    settings: Sequence[Mapping[str, str]]
    places: tuple[int, ...]
    limit_s: float

    def write(self, folder: Path) -> None:
        """Leave it for the worker that waits at `folder`; request.json comes last."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        document = fields | {"folder": str(self.folder), "file": self.file.to_json(), "inputs": len(self.inputs)}
        with storage_errors(folder):
            _save(folder / _INPUTS, self.inputs)
            _leave(folder / _REQUEST, document | {"settings": [dict(row) for row in self.settings]})

    @classmethod
    def await_at(cls, folder: Path) -> Request:
        """Wait until it is there, and read it."""
        while not (folder / _REQUEST).is_file():
            time.sleep(_POLL_S)
        fields = json.loads((folder / _REQUEST).read_text())
        fields |= {"folder": Path(fields["folder"]), "file": ModelFile.from_json(fields["file"])}
        return cls(**fields | {"inputs": _load(folder / _INPUTS, fields["inputs"]), "places": tuple(fields["places"])})


def main(folder: Path, target: str, parent: int) -> None:
    """Import what the target runs with, wait for the request, and try its settings in order."""
    process.end_with(parent, leaving=folder)
    converter = get_converter(target)
    for module in converter.runtime_modules:
        importlib.import_module(module)
    request = Request.await_at(folder)
    for place in request.places:
        _begun(folder, place).touch()
        # Native code that hangs may hold the GIL; this watchdog ends the process all the same.
        faulthandler.dump_traceback_later(request.limit_s, exit=True)
        state, reason = _try(converter, request, request.settings[place], folder / f"{place}.npz")
        faulthandler.cancel_dump_traceback_later()
        _leave(_record(folder, place), {"state": state, "reason": reason})


def unswitchable(target: str) -> str:
    """Why a setting of a target cannot be switched in this process, "" if all can; all of them stay tried."""
    converter = get_converter(target)
    try:
        for settings in converter.settings:
            converter.switch(settings)
    except NotSwitchable as error:
        return error.message
    return ""


def begun(folder: Path, place: int) -> bool:
    """Whether a worker began with a setting."""
    return _begun(folder, place).is_file()


def outcome_of(folder: Path, place: int) -> tuple[str, str, tuple[Arrays, ...]] | None:
    """State, reason and the outputs of each input under a setting; None if the process ended before it was done."""
    if not _record(folder, place).is_file():
        return None
    record = json.loads(_record(folder, place).read_text())
    return record["state"], record["reason"], _load(folder / f"{place}.npz") if record["state"] == RAN else ()


def _try(converter: Converter, request: Request, settings: Mapping[str, str], out: Path) -> tuple[str, str]:
    """Load, run all inputs, close; the outputs land in `out`. Returns the state and a reason for any but RAN."""
    try:
        converter.switch(settings)
        session = converter.open(request.folder, request.file, threads=_THREADS)
        try:
            converter.confirm(settings, request.folder / request.file.entry)
            outputs = [session.run(arrays) for arrays in request.inputs]
        finally:
            session.close()
        _save(out, outputs)
    except NotSwitchable as error:
        return NOT_SWITCHED, error.message
    except (MemoryError, OSError) as error:
        return EXHAUSTED, f"this machine ran out of memory or of room for temporary files: {error}"
    except Exception as error:  # whatever a runtime raises is the result of this setting
        return FAILED, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return RAN, ""


def _leave(path: Path, document: object) -> None:
    """A document that the other process finds whole or not at all; it need not outlive this machine."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(document), encoding="utf-8")
    os.replace(unfinished, path)


def _begun(folder: Path, place: int) -> Path:
    return folder / f"{place}.begun"


def _record(folder: Path, place: int) -> Path:
    return folder / f"{place}.json"


def _save(path: Path, runs: Sequence[Arrays]) -> None:
    named: dict[str, Any] = {
        f"{run} {name}": array for run, arrays in enumerate(runs) for name, array in arrays.items()
    }
    np.savez(path, **named)


def _load(path: Path, runs: int | None = None) -> tuple[Arrays, ...]:
    found: dict[int, dict[str, np.ndarray]] = {run: {} for run in range(runs or 0)}
    with np.load(path) as arrays:
        for key in arrays.files:
            run, _, name = key.partition(" ")
            found.setdefault(int(run), {})[name] = arrays[key]
    return tuple(found[run] for run in sorted(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    os._exit(0)  # skip the slow cleanup of libraries
