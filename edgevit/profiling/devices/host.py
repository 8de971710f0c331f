"""This machine as a device: the runner in a subprocess of its own, and what Python can tell of the hardware."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.contract.raw_report import DeviceInfo, RawReport, read_report
from edgevit.errors import ContractError, DeviceError, UsageError
from edgevit.infra import process
from edgevit.infra.files import write_json
from edgevit.infra.provenance import cpu_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgevit.artifacts.artifact import Artifact
    from edgevit.contract.job import Job

RUNNER = (sys.executable, "-m", "edgevit.profiling.runner")

_PRODUCT_FILES = ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name")  # boards, then PCs


class HostDevice:
    """This machine. `runner` is the program that takes a job file and a report file."""

    def __init__(self, runner: Sequence[str] = RUNNER) -> None:
        self._runner = tuple(runner)

    def describe(self) -> DeviceInfo:
        """Facts of this machine."""
        return describe_host()

    def run(self, artifact: Artifact, job: Job, timeout_s: float) -> RawReport:
        """Run one job in a fresh process. Raises DeviceError with the last line that the process wrote to stderr."""
        with tempfile.TemporaryDirectory(prefix="edgevit-run-") as folder:
            job_file, report_file = Path(folder, "job.json"), Path(folder, "report.json")
            write_json(job_file, job.to_json())
            shelf = artifact.path.resolve().parent
            done = process.run([*self._runner, job_file, report_file, "--artifacts", shelf], timeout_s=timeout_s)
            if done.returncode != 0:
                said = done.last_error_line or "it said nothing"
                raise DeviceError(f"{job.artifact} did not run, {done.ending}: {said}")
            return _collect(report_file, job)


def open_device(address: str) -> HostDevice:
    """The plug-in of scheme "host", which has no address part. Raises UsageError if one is given."""
    if address:
        raise UsageError(f"device host:{address} does not exist", fix='this machine is called "host"')
    return HostDevice()


def _collect(report_file: Path, job: Job) -> RawReport:
    if not report_file.exists():
        raise DeviceError(f"{job.artifact} ended well but left no report", fix="the runner is not edgevit's")
    try:
        report = read_report(report_file)
    except ContractError as error:
        raise DeviceError(f"{job.artifact} left no valid report: {error.message}") from error
    if report.token != job.token:
        raise DeviceError(f"{job.artifact} answered job {report.token}, not {job.token}", fix="run it again")
    return report


def describe_host() -> DeviceInfo:
    """What this machine tells of itself; the product's name, never the host's, because reports are published."""
    return DeviceInfo(
        name=_product() or f"{platform.system()} {platform.machine()}",
        os=platform.system(),
        os_version=platform.release() or None,
        cpu=cpu_name(),
        cores=os.cpu_count(),
        arch=platform.machine() or None,
        memory_bytes=_memory_bytes(),
        python_version=platform.python_version(),
    )


def load_average() -> float | None:
    """Runnable tasks, mean over the last minute; None where the system does not count them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell.

    Linux: VmHWM, because getrusage's maximum survives exec there and may be the parent's.
    """
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def _product() -> str | None:
    for path in _PRODUCT_FILES:
        for line in _lines(path):
            if name := line.strip("\0 \t"):
                return name
    return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _lines(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text(errors="replace").splitlines()
    return []
