"""This machine as a device: the runner in a subprocess of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.contract.raw_report import FILE_NAME, DeviceInfo, RawReport, read_raw_report
from edgevit.errors import ContractError, DeviceError, UsageError
from edgevit.infra import process
from edgevit.infra.files import write_json
from edgevit.profiling.devices.host_facts import describe_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgevit.artifacts.artifact import Artifact
    from edgevit.contract.job import Job

RUNNER = (sys.executable, "-m", "edgevit.profiling.runner")


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
            job_file, report_file = Path(folder, "job.json"), Path(folder, FILE_NAME)
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
        report = read_raw_report(report_file)
    except ContractError as error:
        raise DeviceError(f"{job.artifact} left no valid report: {error.message}") from error
    if report.token != job.token:
        raise DeviceError(
            f"{job.artifact} left the report of job {report.token}, not of {job.token}", fix="run it again"
        )
    return report
