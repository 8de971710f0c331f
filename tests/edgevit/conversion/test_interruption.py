"""Conversions that are killed or run out of room leave nothing that looks finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def _start(my_model: Path, out: Path) -> subprocess.Popen:
    argv = [sys.executable, "-m", "edgevit", "convert", f"{my_model}:build", "-t", "executorch", "--out", str(out)]
    return subprocess.Popen(
        argv,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a run in the background ignores it
    )


def _finished_looking(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if not path.name.startswith(".")]


def _workers(out: Path) -> list[int]:
    """Processes of the conversion into `out`, by what their request says."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if (
                "edgevit.conversion.worker" in words
                and str(out) in Path(words[words.index("edgevit.conversion.worker") + 1]).read_text()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_conversion_leaves_nothing_and_takes_its_worker_along(my_model, tmp_path, number):
    out = tmp_path / "out"
    process = _start(my_model, out)
    try:
        assert _until(lambda: out.exists() and _workers(out), 120)
        process.send_signal(number)
        code = process.wait(60)
        assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert _until(lambda: not _workers(out), 30)
        assert _finished_looking(out) == []
    finally:
        process.kill()
        process.stderr.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


@pytest.mark.skipif(os.name != "posix", reason="needs mount")
def test_full_disk_is_exit_8_and_leaves_nothing(my_model, small_disk):
    process = _start(my_model, small_disk / "out")
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 8, errors
    assert "No space left on device" in errors
    assert "fix: free disk space" in errors
    assert list((small_disk / "out").iterdir()) == []
