"""However a worker ends, the error in the parent is the one that was raised, or says how the process died."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from edgevit.contract.manifest import Executed
from edgevit.conversion.worker_messages import ProgramFiles, WorkerRequest
from edgevit.conversion.worker_processes import run_worker, run_workers
from edgevit.errors import ConversionError, MissingDependency, ParityError, StorageError
from edgevit.targets import registry

# A target whose options end the worker: what happens there takes no network and no seconds.
PLUGIN = '''
import os, signal, sys, time
from dataclasses import dataclass
from edgevit.contract.manifest import Executed
from edgevit.errors import ConversionError, EdgevitError, MissingDependency, ParityError, StorageError

class UnknownOp(ConversionError):
    """Its constructor wants more than a message."""
    def __init__(self, op, places):
        super().__init__(f"no kernel for {op}", fix="write one")
        self.op, self.places = op, places

class NoEdgevitError(Exception):
    pass

def local():
    class Local(EdgevitError):
        pass
    return Local("it broke", fix="mend it")

RAISED = {
    "missing": lambda: MissingDependency("no compiler", fix="install one"),
    "storage": lambda: StorageError("disk full"),
    "plugin": lambda: UnknownOp("aten.foo", [("conv1", 7), ("conv2", 9)]),
    "parity": lambda: ParityError("differs", fix="stop", parity=Executed("r", 4, 0.5, 0.25, 12.0, 0.9, 0.75)),
    "runtime": lambda: RuntimeError("kernel 17 is missing"),
    "memory": lambda: MemoryError(),
    "local": local,
    "no edgevit error": lambda: NoEdgevitError("odd"),
}
ENDED = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: sys.exit("no licence"),
    "exit 7": lambda: os._exit(7),
    "hang": lambda: time.sleep(60),
}

@dataclass(frozen=True)
class Options:
    how: str

    def __post_init__(self):
        print("starting", file=sys.stderr)
        if self.how in RAISED:
            raise RAISED[self.how]()
        ENDED[self.how]()

class Converter:
    name = "faulty"
    Options = Options
    settings = ()

CONVERTER = Converter()
'''


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """The package "faulty_target" and its target "faulty", known to this process and to those it starts."""
    info = tmp_path / "site" / "faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgevit.converters.v2]\nfaulty = faulty_target:CONVERTER\n")
    (info.parent / "faulty_target.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(info.parent), str(Path(__file__).parents[3])]))
    registry._found.cache_clear()
    yield tmp_path
    registry._found.cache_clear()
    sys.modules.pop("faulty_target", None)


def _request(folder: Path, how: str) -> WorkerRequest:
    files = ProgramFiles(folder / "program", folder / "outputs.npz")
    return WorkerRequest("faulty", {"how": how}, folder / "out", files, ())


def _failure(folder: Path, how: str, timeout_s: float = 60.0) -> BaseException:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is what the tests are about
        run_worker(_request(folder, how), folder, "net", timeout_s, _keep_nothing, threading.Event())
    return raised.value


def _keep_nothing(target, artifact, manifest_sha256):
    raise AssertionError("nothing was made")


@pytest.mark.parametrize(
    ("how", "kind", "message", "fix"),
    [
        ("missing", MissingDependency, "no compiler", "install one"),
        ("storage", StorageError, "disk full", ""),
    ],
)
def test_own_error_arrives_as_itself(faulty, how, kind, message, fix):
    error = _failure(faulty, how)
    assert type(error) is kind
    assert (error.message, error.fix, error.exit_code) == (message, fix, kind.exit_code)


def test_error_of_a_plugin_arrives_with_its_fields(faulty):
    error = _failure(faulty, "plugin")
    assert (type(error).__module__, type(error).__name__) == ("faulty_target", "UnknownOp")
    assert isinstance(error, ConversionError)
    assert (error.op, error.places) == ("aten.foo", [("conv1", 7), ("conv2", 9)])
    assert str(error) == "no kernel for aten.foo (write one)"


def test_parity_error_arrives_with_its_numbers(faulty):
    error = _failure(faulty, "parity")
    assert type(error) is ParityError
    assert error.parity == Executed("r", 4, 0.5, 0.25, 12.0, 0.9, 0.75)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("runtime", "RuntimeError: kernel 17 is missing"),
        ("memory", "MemoryError"),
        ("local", "local.<locals>.Local: it broke"),
        ("no edgevit error", "NoEdgevitError: odd"),
    ],
)
def test_anything_else_is_a_conversion_error_with_type_and_text(faulty, how, text):
    error = _failure(faulty, how)
    assert type(error) is ConversionError
    assert error.message == f"the faulty converter failed with {text}"
    assert error.fix == ("mend it" if how == "local" else "--debug shows where; report it if the model is not at fault")


@pytest.mark.parametrize(
    ("how", "ending"), [("crash", "signal SIGSEGV: "), ("exit", "exit 1: no licence"), ("exit 7", "exit 7: starting")]
)
def test_worker_that_dies_without_a_result_says_how(faulty, how, ending):
    error = _failure(faulty, how)
    assert type(error) is ConversionError
    assert error.message.startswith(f"the faulty converter ended with {ending}")
    assert "edgevit doctor" in error.fix


def test_worker_that_hangs_is_stopped(faulty):
    error = _failure(faulty, "hang", timeout_s=3.0)
    assert error.message == "the faulty converter did not end within 3 s and was stopped"


def test_first_failure_is_raised_after_all_have_ended_and_the_others_are_said(faulty, caplog, monkeypatch):
    from edgevit.conversion import worker_processes

    def fail(request, *rest):
        raise ConversionError(request.options["how"])

    monkeypatch.setattr(worker_processes, "run_worker", fail)
    requests = [_request(faulty, "one"), _other(_request(faulty, "two"))]
    with pytest.raises(ConversionError, match="one"):
        run_workers(requests, faulty, model="net", timeout_s=1.0, keep=_keep_nothing)
    assert "also failed: two" in caplog.text


def _other(request: WorkerRequest) -> WorkerRequest:
    return WorkerRequest("other", request.options, request.out, request.files, ())
