"""Is a file right under the settings that phones' builds of its runtime have? Executed here, and compared.

The wheels that run a file on this machine are built differently from the runtimes of apps. Where a target has these
differences as settings (`Converter.settings`), a file is run that way too: goldens and seeded noise, all settings
in turn in one child process, each model closed before the next; and if anything goes wrong there, each setting in a
child of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevit.contract.manifest import FILE_NAME, Outcome, SettingsRun, Tolerance
from edgevit.contract.raw_report import Runtime
from edgevit.errors import DeviceError, EdgevitError, ParityError, UsageError
from edgevit.infra import process
from edgevit.infra.optional_imports import version
from edgevit.infra.provenance import cpu_name
from edgevit.quantization.weight_storage import has_qparams
from edgevit.targets.base import Audit, ModelFile
from edgevit.targets.registry import converter_names, get_converter
from edgevit.verification.parity import Distance, distance, worst
from edgevit.verification.settings_worker import FAILED, NOT_SWITCHED, RAN, Request, begun, outcome_of

if TYPE_CHECKING:
    from edgevit.artifacts.artifact import Artifact
    from edgevit.targets.base import Converter

NOISE_INPUTS = 8
_LIMIT_S = 120.0  # for one setting: load, and run all inputs
_SPARE_S = 60.0  # for importing the runtime, and for ending
_WAITING_S = 86400.0  # a child that was started early waits for a whole conversion
_SIDE_BY_SIDE = 2  # child processes at once, when each setting has its own
_CRASHED, _HUNG, _KILLED, _UNTRIED = "crashed", "hung", "killed", "untried"  # beside the worker's own states
_TIMED_OUT = "Timeout ("  # prefix of the stack dump by the worker's watchdog
_RIGHT = (Outcome.EQUAL, Outcome.WITHIN)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Execution:
    """Every way in which a file was run.

    failure: what is wrong with the file, None if nothing is. unproven: why some settings could not be tried, "" if
    all were; that is no failure, but no proof either.
    """

    rows: tuple[SettingsRun, ...]
    failure: EdgevitError | None = None
    unproven: str = ""
    fix: str = ""  # how to get a right one

    def summary(self) -> str:
        """ "right under 12 of 12 settings of phones", and the first reason if it is not."""
        right = sum(row.outcome in _RIGHT for row in self.rows)
        reason = next((f"; {row.reason}" for row in self.rows if row.outcome not in _RIGHT and row.reason), "")
        return f"right under {right} of {len(self.rows)} settings of phones{reason}"


def has_settings(converter: Converter) -> bool:
    """Whether phones' builds of the target's runtime have settings that differ from the one here."""
    return bool(getattr(converter, "settings", ()))  # older plug-ins have no such field


def audit_of(artifact: Artifact) -> Audit | None:
    """How those builds will treat the model file, without running it; None for a target without settings."""
    converter = get_converter(artifact.manifest.target)
    return converter.audit(artifact.path / artifact.manifest.entry) if has_settings(converter) else None


def execution_of(artifact: Artifact, child: Child | None = None) -> Execution:
    """Run an artifact's goldens and noise under all settings, and compare the outputs with the goldens and each other.

    Outputs of int8 arithmetic and of int8 weights must be bit-exact under all settings, others within the
    manifest's tolerance. child: a worker that `waiting_child` started.
    """
    manifest = artifact.manifest
    file = ModelFile(manifest.entry, manifest.inputs, manifest.outputs, manifest.dynamic_batch)
    inputs = [artifact.golden_input(golden.name) for golden in manifest.goldens]
    expected = [artifact.golden_output(golden.name) for golden in manifest.goldens]
    judge = _Judge(artifact.name, artifact.remake, expected, manifest.tolerance, exact=has_qparams(manifest))
    return _execute(get_converter(manifest.target), artifact.path, file, inputs, judge, child)


def file_without_manifest(path: str | Path) -> Path | None:
    """The model file that a path means, if it is one that came without a manifest, of a target with settings.

    Either the file itself, or the only one in a folder that is no artifact. None for all else. Raises UsageError for a
    folder that holds several.
    """
    path = Path(path)
    if path.is_file():
        return path if converter_of(path) is not None else None
    if not path.is_dir() or (path / FILE_NAME).exists():
        return None
    found = sorted(file for file in path.iterdir() if file.is_file() and converter_of(file) is not None)
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3])
        raise UsageError(f"{path} has no manifest and holds {len(found)} model files: {names}", fix="give one of them")
    return found[0] if found else None


def converter_of(path: Path) -> Converter | None:
    """The target with settings whose files end as this one does, None if there is none."""
    found = (get_converter(name) for name in converter_names())
    return next((one for one in found if has_settings(one) and one.suffix == path.suffix), None)


def execution_of_file(path: Path, converter: Converter) -> Execution:
    """The same for a model file that came without a manifest: noise alone, bit-exact under all settings."""
    judge = _Judge(path.name, "ask whoever made it, or convert the model with edgevit", [], Tolerance(), exact=True)
    return _execute(converter, path.parent, converter.describe(path), [], judge, None)


@contextmanager
def waiting_child(converter: Converter) -> Iterator[Child | None]:
    """A worker that imports its runtime while a conversion goes on; None for a target without settings.

    Importing takes longer than running most files.
    """
    if not has_settings(converter):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="edgevit-settings-") as folder, ThreadPoolExecutor(1) as pool:
        child = Child(converter.name, Path(folder), pool)
        try:
            yield child
        finally:
            child.stop()


class Child:
    """A process that waits for one request; it ends with its parent process, or by `stop`."""

    def __init__(self, target: str, folder: Path, pool: ThreadPoolExecutor) -> None:
        self._folder, self._stop = folder, threading.Event()
        argv: list[str | Path] = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "edgevit.verification.settings_worker",
            folder,
            target,
            str(os.getpid()),
        ]
        self._ended: Future[process.Completed] = pool.submit(process.run, argv, timeout_s=_WAITING_S, stop=self._stop)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._stop.set()

    def run(self, request: Request) -> dict[int, _Trial]:
        """Try the settings of the request in turn; those behind one that ended the process are not in the result."""
        request.write(self._folder)
        try:
            ending = _ending(self._ended.result(_SPARE_S + request.limit_s * len(request.places)))
        except TimeoutError:
            self.stop()
            ending = _Trial(_HUNG, f"did not end within {request.limit_s:g} s")
        trials = {}
        for place in request.places:
            recorded = outcome_of(self._folder, place)
            if recorded is not None:
                trials[place] = _Trial(*recorded)
            else:
                trials[place] = ending if begun(self._folder, place) else _Trial(_UNTRIED, ending.reason)
                break
        return trials


@dataclass(frozen=True, slots=True)
class _Trial:
    """How one setting ended, why, and what each input gave where it ran."""

    state: str
    reason: str = ""
    outputs: tuple[Arrays, ...] = ()


def _ending(completed: process.Completed) -> _Trial:
    """The result of the setting during which a process ended, from how it ended."""
    if _TIMED_OUT in completed.stderr:
        return _Trial(_HUNG, f"did not end within {_LIMIT_S:g} s")
    if completed.ending == "signal SIGKILL":
        return _Trial(_KILLED, "the process was killed from outside, most likely because memory ran out")
    last = f": {completed.last_error_line[:200]}" if completed.returncode > 0 and completed.last_error_line else ""
    return _Trial(_CRASHED, f"the process ended with {completed.ending}{last}")


def _execute(
    converter: Converter,
    folder: Path,
    file: ModelFile,
    goldens: Sequence[Arrays],
    judge: _Judge,
    child: Child | None,
) -> Execution:
    inputs = [*goldens, *(_noise(file, seed) for seed in range(NOISE_INPUTS))]
    settings = converter.settings
    runtime = Runtime(converter.name, version(converter.packages[0]))

    def tried(places: Sequence[int], child: Child | None) -> dict[int, _Trial]:
        assert child is not None  # the converter has settings
        return child.run(Request(folder.resolve(), file, inputs, settings, tuple(places), _LIMIT_S))

    def alone(place: int) -> _Trial:
        with waiting_child(converter) as own:
            return tried([place], own)[place]

    places = range(len(settings))
    with waiting_child(converter) if child is None else nullcontext(child) as one:
        together = tried(places, one)
    trials = [together.get(place, _Trial(_UNTRIED)) for place in places]
    verdicts = judge.verdicts(trials)
    # A crash or a difference may come from what ran before in the same process; a hang would only hang again.
    broken = any(verdict.state == _CRASHED or verdict.outcome is Outcome.DIFFERS for verdict in verdicts)
    again = [place for place in places if broken or place not in together]
    if again:
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            apart = dict(zip(again, pool.map(alone, again), strict=True))
        fresh = judge.verdicts([apart.get(place, trials[place]) for place in places])
        verdicts = [_with_company(one, other) for one, other in zip(fresh, verdicts, strict=True)]
    cpu = cpu_name()
    named = [{**row, "cpu": cpu} if cpu else dict(row) for row in settings]
    rows = tuple(verdict.row(runtime, row) for verdict, row in zip(verdicts, named, strict=True))
    return Execution(rows, judge.failure(verdicts, settings), _unproven(verdicts), judge.fix)


def _noise(file: ModelFile, seed: int) -> dict[str, np.ndarray]:
    """Normal numbers for floats; bytes over their range; 0 and 1 for wider integers, which are indices."""
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in file.inputs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = random.normal(size=spec.shape).astype(dtype)
        else:
            byte = dtype in (np.int8, np.uint8)
            low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if byte else (0, 1)
            arrays[spec.name] = random.integers(low, high, spec.shape, endpoint=True).astype(dtype)
    return arrays


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The result of one setting; `state` separates failures from what proves nothing."""

    state: str
    outcome: Outcome
    reason: str = ""
    found: Distance | None = None

    @property
    def wrong(self) -> bool:
        return self.state not in (RAN, NOT_SWITCHED) or self.outcome is Outcome.DIFFERS

    def row(self, runtime: Runtime, settings: dict[str, str]) -> SettingsRun:
        numbers = (self.found.max_relative_error, self.found.snr_db) if self.found is not None else (None, None)
        return SettingsRun(runtime, settings, self.outcome, self.reason or None, *numbers)


def _with_company(alone: _Verdict, together: _Verdict) -> _Verdict:
    """A setting that is right in a process of its own, but was not after others, is not right."""
    if alone.wrong or not together.wrong or together.outcome is Outcome.NOT_EXECUTED:
        return alone
    reason = f"{together.reason}, after other settings ran in the same process"
    return _Verdict(together.state, together.outcome, reason, together.found)


def _unproven(verdicts: Sequence[_Verdict]) -> str:
    return next((verdict.reason for verdict in verdicts if verdict.state == NOT_SWITCHED), "")


@dataclass(frozen=True, slots=True)
class _Judge:
    """What the outputs of one file are compared with.

    expected: those of the goldens, which come before the noise. The goldens must be within `tolerance`; `exact`:
    outputs must be bit-exact under all settings, else noise must be within the tolerance, too.
    """

    name: str
    fix: str
    expected: Sequence[Arrays]
    tolerance: Tolerance
    exact: bool

    def verdicts(self, trials: Sequence[_Trial]) -> list[_Verdict]:
        """One for each trial; the first that ran is what the others are compared with."""
        first = next((trial for trial in trials if trial.state == RAN), None)
        return [self._verdict(trial, first) for trial in trials]

    def _verdict(self, trial: _Trial, first: _Trial | None) -> _Verdict:
        if trial.state in (FAILED, _CRASHED):
            return _Verdict(trial.state, Outcome.CRASHED, trial.reason)
        if trial.state != RAN or first is None:
            return _Verdict(trial.state, Outcome.NOT_EXECUTED, trial.reason)
        goldens = list(zip(trial.outputs, self.expected, strict=False))
        reason = self._difference(trial, first)
        if all(_equal(*pair) for pair in goldens):
            return _Verdict(RAN, Outcome.DIFFERS if reason else Outcome.EQUAL, reason)
        found = worst([_distance(*pair) for pair in goldens])
        reason = "; ".join(found.misses(self.tolerance)) or reason
        return _Verdict(RAN, Outcome.DIFFERS if reason else Outcome.WITHIN, reason, found)

    def _difference(self, trial: _Trial, first: _Trial) -> str:
        """How far a trial is from the first one, in words, "" if it is within bounds."""
        pairs = [pair for pair in zip(trial.outputs, first.outputs, strict=True) if not _equal(*pair)]
        if not pairs:
            return ""
        tolerance = Tolerance(max_relative_error=0.0) if self.exact else self.tolerance
        misses = worst([_distance(*pair) for pair in pairs]).misses(tolerance)
        return f"{len(pairs)} of {len(first.outputs)} inputs: {misses[0]} against the first setting" if misses else ""

    def failure(self, verdicts: Sequence[_Verdict], settings: Sequence[Mapping[str, str]]) -> EdgevitError | None:
        """The first and worst that went wrong, as one error."""
        wrong = [(verdict, row) for verdict, row in zip(verdicts, settings, strict=True) if verdict.wrong]
        if not wrong:
            return None
        broken = [(verdict, row) for verdict, row in wrong if verdict.outcome is not Outcome.NOT_EXECUTED]
        verdict, row = (broken or wrong)[0]
        where = " ".join(f"{name}={value}" for name, value in row.items())
        if not broken:
            fix = "free memory or time on this machine and try again; nothing is known of the file"
            return DeviceError(f"{self.name} could not be tried with {where}: {verdict.reason}", fix=fix)
        if all(verdict.state == FAILED for verdict in verdicts):
            return DeviceError(f"{self.name} does not run here: {verdict.reason}", fix=self.fix)
        words = "crashes" if verdict.outcome is Outcome.CRASHED else "is wrong"
        return ParityError(
            f"{self.name} {words} under {len(broken)} of {len(verdicts)} settings of phones, first with {where}: "
            f"{verdict.reason}",
            fix=self.fix,
        )


def _equal(one: Arrays, other: Arrays) -> bool:
    """Whether the outputs that the second has are bit-exact."""
    return all(one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in other)


def _distance(one: Arrays, other: Arrays) -> Distance:
    """Of the worst output."""
    return worst([distance(one[name], other[name]) for name in other])
