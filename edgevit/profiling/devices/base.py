"""What profiling needs of a machine: its facts, and to run one job in a fresh process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgevit.artifacts.artifact import Artifact
    from edgevit.contract.job import Job
    from edgevit.contract.raw_report import DeviceInfo, RawReport


class Device(Protocol):
    """A physical machine behind an address: "host", "adb:SERIAL", "ssh:user@board".

    A plug-in of the group edgevit.devices.v2 is a callable that takes the part after the colon ("" if there is
    none) and returns a Device. Carrying the artifact over, launching and collecting stay private to it.
    """

    def describe(self) -> DeviceInfo:
        """Facts of the machine. Raises DeviceError if it cannot be reached."""

    def run(self, artifact: Artifact, job: Job, timeout_s: float) -> RawReport:
        """Run one job in a new process and return its report, which carries the job's token.

        Raises DeviceError if the process crashes, takes longer than timeout_s, or leaves no valid report.
        """
