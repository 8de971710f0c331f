"""Starts edgevit's child processes from one that has imported the libraries already.

Every conversion runs in a process of its own, and half of its time goes into imports: of torch, and of a converter's
library. Under pytest such a process is forked instead, from one server per target that did the imports once. It runs
the same module with the same arguments, environment and process group of its own, and ends with who asked for it.
So runs a command of edgevit that a test starts by `process.run`; one started by `subprocess` is started anew, as a
user does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from edgevit.errors import EdgevitError
from edgevit.infra import process

_WORKERS = ("edgevit.conversion.worker", "edgevit.verification.settings_worker")
_COMMAND, _COMMANDS_SERVER = "edgevit", "tflite"  # any server has what the commands import
# What converting imports, as module or module:function. No runtime: one that starts threads must not be forked.
_LIBRARIES = {
    "aotinductor": ("torch._inductor.compile_fx",),
    "coreml": ("edgevit.compat.coremltools:open_coremltools",),
    "executorch": ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner"),
    "onnx": ("onnxscript", "torch.onnx"),
    "tflite": ("flatbuffers",),
}
_HEADER_BYTES = 16


class WarmProcesses:
    """The servers of one test session, one per target, each started when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lifelines: dict[str, socket.socket] = {}  # a server ends when its lifeline is closed
        self._cold = process._start

    def start(
        self,
        argv: Sequence[str | Path],
        stdout: IO[bytes],
        stderr: IO[bytes],
        cwd: Path | None,
        env: Mapping[str, str] | None,
    ) -> Any:
        """In place of `process._start`: forked where the program is one of edgevit's workers, else a new program."""
        words = [str(part) for part in argv]
        environment = dict(os.environ if env is None else env)
        module = words[4] if words[:4] == [sys.executable, "-W", "ignore", "-m"] else ""
        target = None
        if module == _COMMAND:
            target = _COMMANDS_SERVER
        elif module in _WORKERS:
            target = next(
                (name for name in _LIBRARIES for word in words if Path(word).name.split(".")[0] == name), None
            )
        if target is None:
            return self._cold(argv, stdout, stderr, cwd, env)
        request = json.dumps({"words": words[4:], "cwd": str(cwd or Path.cwd()), "environment": environment}).encode()
        connection = self._connect(target)
        socket.send_fds(
            connection, [str(len(request)).encode().ljust(_HEADER_BYTES)], [stdout.fileno(), stderr.fileno()]
        )
        connection.sendall(request)
        return _Forked(words, connection)

    def close(self) -> None:
        """End the servers and all that they started."""
        for lifeline in self._lifelines.values():
            lifeline.close()

    def _connect(self, target: str) -> socket.socket:
        path = self._folder / target
        if not path.exists():
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            ours, theirs = socket.socketpair()
            argv = [sys.executable, "-W", "ignore", "-m", "tests.warm_processes", target]
            argv += [str(self._folder), str(listener.fileno()), str(theirs.fileno())]
            subprocess.Popen(
                argv,
                pass_fds=(listener.fileno(), theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            listener.close()
            theirs.close()
            self._lifelines[target] = ours
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return connection


class _Forked:
    """A process that a server forked, with the part of Popen that `edgevit.infra.process` uses."""

    def __init__(self, args: Sequence[str], connection: socket.socket) -> None:
        self.args, self._connection = args, connection
        self._lines = connection.makefile("rb")
        self.pid = int(self._lines.readline())
        self._returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal; TimeoutExpired if it has not ended by then."""
        if self._returncode is None:
            ready = selectors.DefaultSelector()
            ready.register(self._connection, selectors.EVENT_READ)
            if not ready.select(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._returncode = int(self._lines.readline())
            self._connection.close()
        return self._returncode


class _Server:
    """Forks on request. A connection is one process: its pid and later its exit code go out; closed, it is killed."""

    def __init__(self, target: str, folder: Path, listener: socket.socket, lifeline: socket.socket) -> None:
        self._listener, self._lifeline = listener, lifeline
        self._running: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        process._start = WarmProcesses(folder).start  # a worker's own child is forked here, too
        for name in ("torch", "torch.export", *_WORKERS, *_LIBRARIES[target]):
            with contextlib.suppress(ImportError, EdgevitError):  # what is missing is the worker's to report
                module, _, function = name.partition(":")
                loaded = importlib.import_module(module)
                if function:
                    getattr(loaded, function)()

    def serve(self) -> None:
        """Until the lifeline is closed."""
        wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ready in (self._listener, self._lifeline, wake):
            self._selector.register(ready, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._lifeline:
                    for pid in self._running:
                        _kill(pid)
                    return
                if key.fileobj is self._listener:
                    self._fork(self._listener.accept()[0])
                elif key.fileobj is wake:
                    wake.recv(4096)
                    self._reap()
                else:  # who asked for it is gone
                    self._selector.unregister(key.fileobj)
                    _kill(next(pid for pid, connection in self._running.items() if connection is key.fileobj))

    def _fork(self, connection: socket.socket) -> None:
        header, fds, _, _ = socket.recv_fds(connection, _HEADER_BYTES, 2)
        request = json.loads(connection.makefile("rb").read(int(header)))
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for held in (self._listener, self._lifeline, connection, *self._running.values()):
                held.close()
            os.dup2(fds[0], 1)
            os.dup2(fds[1], 2)
            _run(request)
        with contextlib.suppress(OSError):  # it did that itself already, or is gone
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        self._running[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ)
        connection.sendall(f"{pid}\n".encode())

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            connection = self._running.pop(pid)
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            with contextlib.suppress(OSError):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            connection.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _run(request: dict[str, Any]) -> None:
    """Be the program that was asked for, to its end."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    _import_like_a_new_process()
    module, *arguments = request["words"]
    if module in _WORKERS:
        arguments[-1] = str(os.getppid())  # the process that it ends with
    sys.argv = [module, *arguments]
    code: int | str | None = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _import_like_a_new_process() -> None:
    """Put what PYTHONPATH names first, and forget the tests, of which a new process has imported nothing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]
    named = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*dict.fromkeys([*named, *sys.path])]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    server = _Server(
        sys.argv[1], Path(sys.argv[2]), socket.socket(fileno=int(sys.argv[3])), socket.socket(fileno=int(sys.argv[4]))
    )
    server.serve()
