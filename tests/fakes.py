"""Stand-ins for what is slow, noisy or not at hand: a target whose model is a multiplication, a device, a clock."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifacts.artifact import Artifact, file_entries, load_artifact
from edgevit.contract.golden import Reference, write_goldens
from edgevit.contract.job import Job, TimingSettings
from edgevit.contract.manifest import Lowering, Manifest, ModelFacts, NotExecuted, Tolerance
from edgevit.contract.provenance import Provenance, WeightsOrigin
from edgevit.contract.raw_report import (
    AskedUsed,
    BeforeAfter,
    Delegation,
    DeviceInfo,
    Memory,
    OutputParity,
    RawReport,
    Runtime,
    Thermal,
)
from edgevit.data.preprocess import normalize_table, preprocess
from edgevit.infra.files import write_json
from edgevit.spec import Layout, Precision, Preprocess, Task, TensorSpec, Tier
from edgevit.targets.base import Audit, ModelFile, NotExecutable, NotSwitchable

ENTRY = "model.fake"
SIZE = 8
INPUT = TensorSpec("image", (1, 3, SIZE, SIZE), layout=Layout.NCHW)
OUTPUT = TensorSpec("logits", (1, 3))


class FakeClock:
    """Time that passes only by `advance`, nanoseconds."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, ns: int) -> None:
        self.now_ns += ns


@dataclass
class FakeSession:
    """Channel means times `gain`; every run moves `clock` by the next of `durations_ns`, if there are any."""

    gain: float = 1.0
    clock: FakeClock | None = None
    durations_ns: Iterator[int] = field(default_factory=lambda: iter(()))
    runtime: str = "fake 1.2"
    accelerator: str = "cpu"
    threads: int | None = 1
    runs: int = 0
    closed: bool = False

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        if self.clock is not None:
            self.clock.advance(next(self.durations_ns))
        return {OUTPUT.name: _logits(inputs[INPUT.name]) * np.float32(self.gain)}

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeConverter:
    """Opens what `write_artifact` wrote, or always the `session` it was given, `load_ns` later."""

    session: FakeSession | None = None
    load_ns: int = 0
    name: str = "fake"
    suffix: str = ".fake"
    kernels: str = "xnnpack"
    tier: Tier | None = None  # a plug-in that `all` leaves out
    ml_program: bool = False
    dynamic_batch: bool = False
    precisions: frozenset[Precision] = frozenset({Precision.FP32})
    extra: str = "fake"
    packages: tuple[str, ...] = ()
    runtime_modules: tuple[str, ...] = ("colorsys",)  # any small module that nobody else imports
    Options: type = object

    def open(self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1) -> FakeSession:
        if self.session is not None:
            if self.session.clock is not None:
                self.session.clock.advance(self.load_ns)
            return self.session
        model = json.loads((folder / manifest.entry).read_text())
        _BEHAVIOURS[model["behaviour"]]()
        return FakeSession(gain=model["gain"], accelerator=accelerator, threads=threads)


CONVERTER = FakeConverter()


@dataclass
class PhoneConverter(FakeConverter):
    """A target whose runtime phones build otherwise: what a file does with "cache" on or off stands in the file."""

    name: str = "phones"
    packages: tuple[str, ...] = ("edgevit-fake",)
    settings: tuple[Mapping[str, str], ...] = ({"cache": "off"}, {"cache": "on"})
    switched: list[str] = field(default_factory=list)  # in this process, the last one last

    def audit(self, path: Path) -> Audit:
        model = json.loads(path.read_text())
        return Audit("looked at", tuple(model.get("faults", ())))

    def describe(self, path: Path) -> ModelFile:
        return ModelFile(path.name, (INPUT,), (OUTPUT,))

    def switch(self, settings: Mapping[str, str]) -> None:
        self.switched.append(settings["cache"])

    def confirm(self, settings: Mapping[str, str], path: Path) -> None:
        pass

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        return {}

    def open(self, folder: Path, manifest: Manifest, accelerator: str = "cpu", threads: int = 1) -> FakeSession:
        model = json.loads((folder / manifest.entry).read_text())
        now = self.switched[-1] if self.switched else ""
        action = model.get("under", {}).get(now, "run")
        if action == "second":  # wrong only where another setting ran before
            action = 1.5 if len(self.switched) > 1 else "run"
        if isinstance(action, float):
            return FakeSession(gain=action, accelerator=accelerator, threads=threads)
        _BEHAVIOURS[action]()
        return FakeSession(gain=model["gain"], accelerator=accelerator, threads=threads)


PHONES = PhoneConverter()


@dataclass(frozen=True)
class NoOptions:
    """What a converter without options takes."""


@dataclass
class HangingConverter(FakeConverter):
    """Never ends."""

    name: str = "hanging"
    Options: type = NoOptions

    def convert(self, program: Any, options: NoOptions, out_dir: Path) -> None:
        time.sleep(600)


HANGING = HangingConverter()


class FakeDevice:
    """Answers every job with a report whose samples `samples_ns(job, number of the call)` makes up."""

    def __init__(self, samples_ns: Callable[[Job, int], tuple[int, ...]], flags: tuple[str, ...] = ()) -> None:
        self.jobs: list[Job] = []
        self.timeouts_s: list[float] = []
        self._samples_ns, self._flags = samples_ns, flags

    def describe(self) -> DeviceInfo:
        return DEVICE_INFO

    def run(self, artifact: Artifact, job: Job, timeout_s: float) -> RawReport:
        self.jobs.append(job)
        self.timeouts_s.append(timeout_s)
        samples_ns = self._samples_ns(job, len(self.jobs) - 1)
        return dataclasses.replace(make_report(job), samples_ns=samples_ns, pid=len(self.jobs), flags=self._flags)


DEVICE_INFO = DeviceInfo("Fakephone 3", "Linux", "6.1", None, 4, "aarch64", 4 << 30, None)


def make_provenance(**changes: Any) -> Provenance:
    """Of random weights, made by no tools with no options."""
    made = Provenance(
        weights=WeightsOrigin("random", "0" * 64),
        tools={},
        options={},
        edgevit_version="0",
        git_commit=None,
        python="3",
        platform="none",
        created_utc="2026-11-20T12:00:00Z",
        conversion_s=0.0,
    )
    return dataclasses.replace(made, **changes)


def make_job(**changes: Any) -> Job:
    """A small valid job; changes of its fields, or of its timing."""
    names = {field.name for field in dataclasses.fields(TimingSettings)}
    timing = TimingSettings(**{"min_s": 0.0, "warmup_s": 0.0} | {k: v for k, v in changes.items() if k in names})
    rest = {k: v for k, v in changes.items() if k not in names}
    return dataclasses.replace(Job("token-1", "van-fp32-fake", "0" * 64, timing=timing), **rest)


def make_report(job: Job) -> RawReport:
    """A valid report of a job, everything that may be unknown unknown."""
    return RawReport(
        token=job.token,
        job=job,
        harness="cli",
        pid=None,
        started_utc="2026-11-20T12:00:00.000001Z",
        device=DEVICE_INFO,
        runtime=Runtime("fake", "1.2"),
        accelerator=AskedUsed(job.accelerator, None),
        threads=AskedUsed(job.threads, None),
        load_ns=2_000_000,
        first_ns=3_000_000,
        warmup_ns=(1_500_000,),
        samples_ns=(1_000_000, 1_100_000, 1_200_000),
        memory=Memory(None, None),
        thermal=Thermal(),
        load_average=BeforeAfter(),
        delegation=Delegation(None, None, None),
        parity=OutputParity("noise", 0.0, None, within_tolerance=True),
        outputs=None,
        flags=(),
    )


def write_artifact(
    shelf: Path,
    name: str = "van-fp32-fake",
    *,
    gain: float = 1.0,
    behaviour: str = "run",
    tolerance: Tolerance = Tolerance(max_relative_error=1e-5),  # noqa: B008 - frozen
    dynamic_batch: bool = False,
    target: str = "fake",
    precision: Precision = Precision.FP32,
    **model: Any,
) -> Artifact:
    """A whole artifact with two goldens, "noise" and "ramp".

    Its session multiplies the golden's output by `gain`. behaviour: run, crash, hang, chatter (then fail), absent.
    model: more for the file of a PhoneConverter: `under`, by setting a behaviour or a gain, and `faults`.
    """
    folder = shelf / name
    folder.mkdir(parents=True)
    write_json(folder / ENTRY, {"gain": gain, "behaviour": behaviour, **model})
    settings = Preprocess(resize=SIZE, crop=(SIZE, SIZE))
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    ramp = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(SIZE, SIZE, 3)
    references = []
    for golden, pixels in (("noise", noise), ("ramp", ramp)):
        tensor = preprocess(pixels, settings)
        references.append(Reference(golden, pixels, tensor, _logits(tensor)))
    goldens = write_goldens(folder, references, preprocess=settings, task=Task.CLASSIFY, source=INPUT, result=OUTPUT)
    Manifest(
        name=name,
        model=ModelFacts("van", Task.CLASSIFY, "edge", 3, 0, 192, "none"),
        target=target,
        precision=precision,
        entry=ENTRY,
        inputs=(INPUT,),
        outputs=(OUTPUT,),
        preprocess=settings,
        normalize_table=normalize_table(settings.mean, settings.std).tobytes(),
        labels=("red", "green", "blue"),
        files=file_entries(folder),
        goldens=goldens,
        tolerance=tolerance,
        parity=NotExecuted("fake", "not run yet"),
        lowering=Lowering(nodes=8, delegated=7, regions=1),
        deploy=(),
        dynamic_batch=dynamic_batch,
        checks={},
        provenance=make_provenance(),
    ).write(folder)
    return load_artifact(folder)


def install_target(site: Path) -> str:
    """Make "fake" and "hanging" known to every Python whose PYTHONPATH is the returned value, as pip would."""
    info = site / "edgevit_fake-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgevit-fake\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        f"[edgevit.converters.v2]\nfake = {__name__}:CONVERTER\nhanging = {__name__}:HANGING\n"
        f"phones = {__name__}:PHONES\n"
    )
    checkout = Path(__file__).parents[1]
    return os.pathsep.join([str(site), str(checkout), os.environ.get("PYTHONPATH", "")])


def _logits(tensor: np.ndarray) -> np.ndarray:
    """(N, 3, H, W) -> (N, 3)."""
    return tensor.mean(axis=(2, 3))


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _chatter() -> None:
    print("loading weights", file=sys.stderr)
    print("kernel 17 is missing\n", file=sys.stderr)
    sys.exit(3)


def _absent() -> None:
    raise NotExecutable("fake models run on fake phones only", fix="use one")


def _refuse() -> None:
    raise NotSwitchable("the runtime refused cache=on (error 0x12)")


def _exhaust() -> None:
    raise MemoryError("1 GiB more")


def _fail() -> None:
    raise RuntimeError("kernel 17 is missing")


_BEHAVIOURS: dict[str, Callable[[], None]] = {
    "run": lambda: None,
    "crash": _crash,
    "hang": lambda: time.sleep(60),
    "chatter": _chatter,
    "absent": _absent,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "refused": _refuse,
    "error": _fail,
    "memory": _exhaust,
}
