"""`python -m benchmarks.server [SERVER.toml]`: images per second on this machine's CPU and, if it has one, its GPU.

The same seeded network in eager PyTorch, torch.compile, and our AOTInductor and ONNX artifacts, at several batch sizes.
A fresh process per candidate and round, the order of a round flipped in the next, eager timed twice as the control.
Every candidate gets arrays in this machine's memory and gives arrays back there. The result is results/SERVER.json; a
run with --rounds leaves artifacts/server/SERVER.json instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgevit
from benchmarks.candidates import add_timing, relative_error, timed_runs
from benchmarks.compare_runtimes import RESULTS, ROOT, run_worker
from benchmarks.comparison import (
    CONTROL,
    Round,
    Timing,
    interval_json,
    is_right,
    paired_ratio,
    result_flags,
    round_medians,
)
from benchmarks.conversion_matrix import seeded_model
from edgevit import log
from edgevit.checkpoints.model_source import spec_of
from edgevit.errors import EdgevitError, UsageError
from edgevit.graph.capture import example_input
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.log import stage
from edgevit.profiling.devices.host_facts import describe_host, load_average
from edgevit.profiling.latency_statistics import median, spread
from edgevit.spec import Precision
from edgevit.targets.base import Session
from edgevit.targets.registry import get_converter

PLAN = Path(__file__).with_suffix(".toml")
WORK = ROOT / "artifacts" / "server"
NETWORKS = {"eager": "PyTorch, eager", "compile": "PyTorch, compiled"}  # without a file
ARTIFACTS = {"aotinductor": "edgevit, AOTInductor", "onnx": "edgevit, ONNX Runtime"}
TITLES = NETWORKS | ARTIFACTS
_DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the candidates run, what they compute in, and how far an output may be from the network's."""

    accelerator: str
    precision: Precision
    max_relative_error: float

    @property
    def available(self) -> bool:
        return self.accelerator != "cuda" or torch.cuda.is_available()

    def candidates(self) -> list[str]:
        """The networks, and the targets that have this precision."""
        return [*NETWORKS, *(name for name in ARTIFACTS if self.precision in get_converter(name).precisions)]


@dataclass(frozen=True, slots=True)
class Plan:
    """A server.toml."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    seed: int
    settings: tuple[Setting, ...]
    timing: Timing


def main(argv: Sequence[str] | None = None) -> None:
    """Convert what is missing, time, write the result; `python -m benchmarks.server time ...` is one process of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", nargs="?", type=Path, default=PLAN, help="default: server.toml")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models; default: all of server.toml")
    parser.add_argument("--rounds", type=int, help="rounds instead of server.toml's")
    arguments = parser.parse_args(argv)
    log.configure()
    plan = read_plan(arguments.plan)
    if arguments.rounds:
        plan = dataclasses.replace(plan, timing=dataclasses.replace(plan.timing, rounds=arguments.rounds))
    folder = RESULTS if arguments.rounds is None else WORK
    try:
        write_json(folder / f"{arguments.plan.stem}.json", measure(plan, arguments.only or plan.models))
    except EdgevitError as error:
        sys.exit(str(error))


def read_plan(path: Path) -> Plan:
    """A plan from TOML; a missing or an unknown key is an error."""
    document = tomllib.loads(path.read_text())
    try:
        settings = tuple(
            Setting(**entry | {"precision": Precision(entry["precision"])}) for entry in document.pop("settings")
        )
        timing = Timing(**document.pop("timing"))
        lists: dict[str, Any] = {key: tuple(document.pop(key)) for key in ("models", "batches")}
        return Plan(**lists, **document, settings=settings, timing=timing)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}", fix="its keys are those of benchmarks/server.toml") from error


def measure(plan: Plan, models: Sequence[str]) -> dict[str, Any]:
    """The whole result: a row per model, setting and batch."""
    host = describe_host()
    rows = []
    for model in models:
        for setting in (one for one in plan.settings if one.available):
            folder = prepare_setup(model, setting, plan)
            for batch in plan.batches:
                with stage("time", model=model, on=setting.accelerator, precision=setting.precision, batch=batch):
                    rounds = [_run_round(folder, setting, batch, number, plan) for number in range(plan.timing.rounds)]
                rows.append({"model": model, "batch": batch, **summarize(rounds, setting, batch, host.cores or 1)})
    return {
        "schema": "edgevit.server",
        "plan": dataclasses.asdict(plan),
        "cpu": host.cpu,
        "cores": host.cores,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "provenance": provenance(("onnxruntime", "onnx", "onnxscript")),
        "rows": rows,
    }


def prepare_setup(model: str, setting: Setting, plan: Plan) -> Path:
    """What all candidates of a model and setting start from: weights, images, expected outputs, artifacts."""
    folder = WORK / f"{model}-{setting.accelerator}-{setting.precision}"
    folder.mkdir(parents=True, exist_ok=True)
    network = seeded_model(model, plan.seed)
    torch.save(network.state_dict(), folder / "weights.pt")
    sizes = spec_of(network).inputs[0].shape[1:]
    images = example_input((max(plan.batches), *sizes), seed=plan.seed)
    with torch.inference_mode():
        np.save(folder / "expected.npy", network.eval()(images).numpy())
    np.save(folder / "input.npy", images.numpy())
    write_json(folder / "setup.json", {"model": model, "precision": setting.precision})
    targets = [name for name in setting.candidates() if name in ARTIFACTS]
    edgevit.convert(
        model,
        target=targets,
        precision=setting.precision,
        weights=folder / "weights.pt",
        out=folder,
        options={"aotinductor.accelerator": setting.accelerator},
    )
    return folder


def _run_round(folder: Path, setting: Setting, batch: int, number: int, plan: Plan) -> dict[str, dict[str, Any]]:
    """One process per candidate and one for the control."""
    order = [*setting.candidates(), CONTROL]
    random.Random(number // 2).shuffle(order)
    reports = {}
    for name in order if number % 2 == 0 else reversed(order):
        candidate = "eager" if name == CONTROL else name
        argv: list[str | Path] = [
            "time",
            candidate,
            folder,
            "--accelerator",
            setting.accelerator,
            "--batch",
            str(batch),
            *plan.timing.flags(),
        ]
        reports[name] = run_worker("benchmarks.server", argv, Path(sys.executable), plan.timing.threads)
    return reports


def summarize(rounds: Sequence[Round], setting: Setting, batch: int, cores: int) -> dict[str, Any]:
    """One row: images per second of each candidate, and how our times stand to those of the networks."""
    candidates = [_candidate(name, rounds, setting, batch) for name in setting.candidates()]
    right = {row["candidate"] for row in candidates if is_right(row)}
    ratios = [
        {"ours": ours, "against": other} | interval_json(paired_ratio(rounds, ours, other))
        for ours in ARTIFACTS
        for other in NETWORKS
        if {ours, other} <= right
    ]
    failed = any(one[CONTROL].get("error") for one in rounds) or "eager" not in right
    control = None if failed else paired_ratio(rounds, CONTROL, "eager")
    return {
        "accelerator": setting.accelerator,
        "precision": setting.precision,
        "candidates": candidates,
        "ratios": ratios,
        "control": control and interval_json(control),
        "flags": result_flags(rounds, control, cores),
    }


def _candidate(name: str, rounds: Sequence[Round], setting: Setting, batch: int) -> dict[str, Any]:
    row: dict[str, Any] = {"candidate": name, "title": TITLES[name], "error": "", "wrong": False}
    reports: list[Mapping[str, Any]] = [one[name] for one in rounds]
    if failed := [report["error"] for report in reports if report.get("error")]:
        return row | {"error": failed[0]}
    medians = round_medians(rounds, name)
    errors = [report["relative_error"] for report in reports]
    return row | {
        "wrong": any(error is None or error > setting.max_relative_error for error in errors),
        "relative_error": None if None in errors else max(errors),
        "runtime": reports[0]["runtime"],
        "median_ms": median(medians),
        "images_per_s": 1e3 * batch / median(medians),
        "spread": spread(medians),
        "rounds_ms": medians,
    }


class _Network:
    """The network itself as a session: cast to the precision and channels-last on a GPU, as it is on a CPU."""

    def __init__(self, name: str, folder: Path, accelerator: str, threads: int) -> None:
        torch.set_num_threads(threads)
        setup = json.loads((folder / "setup.json").read_text())
        self._dtype, self._accelerator = _DTYPES[Precision(setup["precision"])], accelerator
        network = edgevit.create_model(setup["model"])
        network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        self._format = torch.channels_last if accelerator == "cuda" else torch.contiguous_format
        network = network.eval().to(accelerator, self._dtype).to(memory_format=self._format)  # type: ignore[call-overload]  # torch takes it
        self._network = torch.compile(network) if name == "compile" else network
        self.runtime = f"torch {torch.__version__}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (images,) = inputs.values()
        placed = torch.from_numpy(images).to(self._accelerator, self._dtype, memory_format=self._format)
        with torch.inference_mode():
            return {"logits": self._network(placed).float().cpu().numpy()}


def time_candidate(job: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up and time one candidate: nanoseconds of a whole batch, and the relative error of its output."""
    images, wanted = (np.load(job.folder / f"{name}.npy")[: job.batch] for name in ("input", "expected"))
    load_before, clock = load_average(), time.perf_counter_ns
    session: _Network | Session
    if job.name in NETWORKS:
        session = _Network(job.name, job.folder, job.accelerator, job.threads)
    else:
        (path,) = job.folder.glob(f"*-{job.name}*/manifest.json")
        session = edgevit.load_artifact(path.parent).open(job.accelerator, job.threads)
    inputs = {"image": images}
    (output,) = session.run(inputs).values()
    error = relative_error(output, wanted)
    samples = timed_runs(session, inputs, job, clock)
    return {
        "candidate": job.name,
        "runtime": session.runtime,
        "relative_error": error if np.isfinite(error) else None,
        "load_average": load_before,
        "samples_ns": samples,
    }


def run_job(argv: Sequence[str]) -> None:
    """Write the report of one process; a failure is a trace on stderr, whose last line is kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server time")
    parser.add_argument("name", choices=TITLES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accelerator", required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    add_timing(parser)
    job = parser.parse_args(argv)
    write_json(job.report, time_candidate(job))


if __name__ == "__main__":
    run_job(sys.argv[2:]) if sys.argv[1:2] == ["time"] else main()
