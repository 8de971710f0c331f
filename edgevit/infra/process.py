"""The only place that starts programs: with a time-out, no orphans, and an error that says what went wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgevit.errors import DeviceError

_POLL_S = 0.1  # how often a stoppable run looks for its stop
_WATCH_S = 0.2  # how often a process looks for its parent


class TimedOut(DeviceError):
    """A program ran out of its time and was killed."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended by itself. returncode is negative for a signal."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def ending(self) -> str:
        """How it ended, in words: "exit 3", "signal SIGSEGV"."""
        return f"exit {self.returncode}" if self.returncode >= 0 else f"signal {_signal_name(-self.returncode)}"

    @property
    def last_line(self) -> str:
        """The last line on stdout, blank or not, or "": what a program prints after all that its libraries do."""
        return (self.stdout.splitlines() or [""])[-1].strip()

    @property
    def last_error_line(self) -> str:
        """The last line on stderr that is not blank, or "": where programs say why they gave up."""
        return _last_line(self.stderr)


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> Completed:
    """Run a program to its end; any exit code is a result, not an error. It gets no stdin.

    env replaces the whole environment, None inherits it. At the time-out, on Ctrl-C and on any other error its
    process group is killed, so nothing it started in that group survives; `stop`, once set, does the same from
    another thread. Raises DeviceError if it cannot be started or is stopped, TimedOut if it runs out of time.
    """
    program = Path(argv[0]).name
    # Files, not pipes: a daemon that the program leaves behind (adb's server) keeps a pipe open for ever.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = _start(argv, stdout, stderr, cwd, env)
        try:
            returncode = _wait(program, process, timeout_s, stop)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            last = _last_line(_text(stderr))
            raise TimedOut(
                f"{program} did not end within {timeout_s:g} s" + (f": {last}" if last else ""),
                fix="raise the time-out, or ask for less",
            ) from None
        except BaseException:
            _kill_group(process)
            raise
        return Completed(returncode, _text(stdout), _text(stderr))


def end_with(parent: int, leaving: Path | None = None) -> None:
    """From now on end this process as soon as its parent is gone: nobody would take the result.

    leaving: a folder of the parent's that is to go then, too.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        if leaving is not None:
            shutil.rmtree(leaving, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(
    argv: Sequence[str | Path], stdout: IO[bytes], stderr: IO[bytes], cwd: Path | None, env: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise DeviceError(
            f"cannot start {argv[0]}: {reason}", fix="install the program, or correct its path"
        ) from error


def _wait(program: str, process: subprocess.Popen[bytes], timeout_s: float, stop: threading.Event | None) -> int:
    if stop is None:
        return process.wait(timeout_s)
    deadline = time.monotonic() + timeout_s
    while not stop.is_set():
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_S)
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, timeout_s)
    raise DeviceError(f"{program} was stopped")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session made it the leader of its own group
    process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
