"""`python -m benchmarks.compare_runtimes [RULES.toml]`: our artifacts against others of the same networks.

Every candidate of a model gets the same weights and the same image, and a fresh process per round; rounds come in
pairs of opposite order, so what slows the machine for minutes hits all alike. Conversions stay in
artifacts/compare-runtimes/ and are made again when what they come from has changed. The result is results/RULES.json,
where --only replaces its models alone; a run with --rounds leaves artifacts/compare-runtimes/RULES.json instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baseline_conversions import PEER_CONVERSIONS, baseline_network
from benchmarks.candidates import CANDIDATES, FLOAT, INT8, OURS, PEER_RUNTIMES, candidate_file
from benchmarks.comparison import (
    CONTROL,
    Rules,
    is_right,
    judge_conversion,
    judge_thresholds,
    merged,
    read_rules,
    summarize,
)
from benchmarks.conversion_matrix import seeded_model
from edgevit import log
from edgevit.checkpoints.model_source import spec_of, state_digest
from edgevit.errors import DeviceError, EdgevitError
from edgevit.graph.capture import example_input
from edgevit.infra import process
from edgevit.infra.files import atomic_folder, sha256_file, write_json
from edgevit.infra.provenance import provenance
from edgevit.log import stage
from edgevit.profiling.devices.host_facts import describe_host, load_average

ROOT = Path(__file__).resolve().parent.parent
RULES = Path(__file__).with_name("compare-runtimes.toml")
RESULTS = Path(__file__).parent / "results"
WORK = ROOT / "artifacts" / "compare-runtimes"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
# What a conversion comes from, beside the weights: a change of any file makes it again.
_OUR_SOURCES = ("edgevit", "converters", "constraints.txt")
_BASELINE_SOURCES = (
    "benchmarks/reference",
    "benchmarks/baseline_conversions.py",
    "benchmarks/peers.txt",
    "constraints.txt",
)
_CONVERSION_TIMEOUT_S = 3600.0
_RUN_TIMEOUT_S = 1800.0

logger = logging.getLogger("edgevit.benchmarks.compare_runtimes")


def main() -> None:
    """Convert what is missing, compare, judge, write the result; exit 1 if a threshold was missed or not judged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="?", type=Path, default=RULES, help="rules; default: compare-runtimes.toml")
    parser.add_argument(
        "--only", nargs="+", metavar="MODEL", help="models to compare; default: all of compare-runtimes.toml"
    )
    parser.add_argument("--rounds", type=int, help="rounds per model instead of compare-runtimes.toml's")
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python that has the peers (`make peers`)")
    arguments = parser.parse_args()
    log.configure()
    rules = read_rules(arguments.rules)
    result_file = RESULTS / f"{arguments.rules.stem}.json"
    if arguments.rounds:
        rules = dataclasses.replace(rules, timing=dataclasses.replace(rules.timing, rounds=arguments.rounds))
    try:
        result = run_comparison(rules, arguments.only or rules.models, arguments.peers, WORK / result_file.name)
        if arguments.rounds is None:
            kept = json.loads(result_file.read_text()) if arguments.only and result_file.is_file() else None
            write_json(result_file, result if kept is None else merged(kept, result))
    except EdgevitError as error:
        sys.exit(str(error))
    sys.exit(any(row["met"] is not True for row in (*result["thresholds"], *result["conversion"])))


def run_comparison(rules: Rules, models: tuple[str, ...], peers: Path, progress: Path) -> dict[str, Any]:
    """The whole result; the copy `progress` grows with every round."""
    host = describe_host()
    result: dict[str, Any] = {
        "schema": "edgevit.runtime_comparison",
        "rules": dataclasses.asdict(rules),
        "cpu": host.cpu,
        "cores": host.cores,
        "provenance": provenance(("executorch", "ai-edge-litert", "coremltools")),
        "peers": peer_versions(peers),
        "models": [],
        "thresholds": [],
        "conversion": [],
        "operations": [],
    }
    for model in models:
        folder = prepare_setup(model, rules.seed)
        conversions = {name: CANDIDATES[name].conversion for name in rules.candidates}
        made = {c: convert(folder, c, peers) for c in dict.fromkeys(conversions.values()) if c is not None}
        failed = {name: made[c]["error"] for name, c in conversions.items() if c is not None and made[c]["error"]}
        rounds: list[Mapping[str, Any]] = []
        for number in range(rules.timing.rounds):
            with stage("compare", model=model, round=number + 1, of=rules.timing.rounds):
                rounds.append(run_round(folder, rules, number, failed, peers))
            summary = {"model": model, **summarize(rounds, rules, host.cores or 1), "provenance": result["provenance"]}
            document = result | {"models": [*result["models"], summary]}
            write_json(progress, document)
        result["models"].append(summary)
        result["thresholds"] += judge_thresholds(model, summary, rules.thresholds)
        right = {row["candidate"] for row in summary["candidates"] if is_right(row)}
        result["operations"] += time_operations(folder, rules, right, peers)
        write_json(progress, result)
    result["conversion"] = [
        time_conversions(model, rules, peers) for model in rules.conversion.models if model in models
    ]
    write_json(progress, result)
    return result


def prepare_setup(model: str, seed: int) -> Path:
    """The folder that all candidates of a model start from: weights, image, and the output of the baseline network."""
    folder = WORK / model
    ours = seeded_model(model, seed)
    setup = {
        "model": model,
        "classes": spec_of(ours).outputs[0].shape[1],
        "weights": state_digest(ours),
        "reference": _hash_files(("benchmarks/reference",)),
    }
    metadata = folder / "setup.json"
    if metadata.is_file() and json.loads(metadata.read_text()) == setup:
        return folder
    with atomic_folder(folder) as building:
        torch.save(ours.state_dict(), building / "weights.pt")
        write_json(building / "setup.json", setup)
        image = example_input(spec_of(ours).inputs[0].shape, seed=seed)
        with torch.inference_mode():
            expected = baseline_network(building)(image)
        np.save(building / "input.npy", image.numpy())
        np.save(building / "expected.npy", expected.numpy())
    return folder


def convert(folder: Path, conversion: str, peers: Path) -> dict[str, Any]:
    """Make a conversion if it is missing or stale: {key, seconds, error}. A failure is kept like a success."""
    key = source_key(folder, conversion)
    record = folder / conversion / "made.json"
    if record.is_file() and (made := json.loads(record.read_text()))["key"] == key:
        return made
    with atomic_folder(folder / conversion) as building:
        seconds, error = run_conversion(folder, conversion, building, peers)
        made = {"key": key, "seconds": seconds, "error": error}
        write_json(building / "made.json", made)
    return made


def run_conversion(folder: Path, conversion: str, out: Path, peers: Path) -> tuple[float, str]:
    """Wall seconds of one conversion in a fresh process, imports included, and why it failed or ""."""
    argv: list[str | Path]
    if conversion == INT8:
        argv = ["-m", "benchmarks.int8_conversion", folder, "--out", out]
    elif conversion == FLOAT:
        model = json.loads((folder / "setup.json").read_text())["model"]
        weights = folder / "weights.pt"
        argv = ["-m", "edgevit", "convert", model, "--weights", weights, "--target", "all", "--no-cache", "--out", out]
    else:
        argv = ["-m", "benchmarks.baseline_conversions", conversion, folder, "--out", out]
    python = peers if conversion in PEER_CONVERSIONS else sys.executable
    with stage("convert", model=folder.name, conversion=conversion):
        started = time.perf_counter()
        try:
            done = process.run([python, "-W", "ignore", *argv], timeout_s=_CONVERSION_TIMEOUT_S, cwd=ROOT)
        except DeviceError as error:
            return time.perf_counter() - started, str(error)
        seconds = time.perf_counter() - started
    if done.returncode == 0:
        return seconds, ""
    logger.warning("%s of %s failed:\n%s", conversion, folder.name, done.stderr[-2000:])
    return seconds, done.last_error_line or done.ending


def source_key(folder: Path, conversion: str) -> str:
    """Hash of all that a conversion's result depends on."""
    weights = json.loads((folder / "setup.json").read_text())["weights"]
    return f"{weights[:16]}-{_hash_files(_OUR_SOURCES if conversion in OURS else _BASELINE_SOURCES)[:16]}"


def _hash_files(sources: Sequence[str]) -> str:
    """SHA-256 over names and contents of files and of all that lies below folders."""
    found = (
        path for name in sources for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])
    )
    paths = sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(ROOT).as_posix()} {sha256_file(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def run_round(
    folder: Path, rules: Rules, number: int, failed: Mapping[str, str], peers: Path
) -> dict[str, dict[str, Any]]:
    """One process per candidate and one for the control; a candidate that failed stays failed."""
    order = [*rules.candidates, CONTROL]
    random.Random(number // 2).shuffle(order)
    reports = {}
    for name in order if number % 2 == 0 else reversed(order):
        candidate = rules.control if name == CONTROL else name
        known = failed.get(candidate, "")
        reports[name] = {"error": known} if known else run_candidate(folder, candidate, rules, peers)
    return reports


def run_candidate(folder: Path, candidate: str, rules: Rules, peers: Path) -> dict[str, Any]:
    """The report of one fresh process, or {"error": its last words}."""
    python = peers if CANDIDATES[candidate].runtime in PEER_RUNTIMES else Path(sys.executable)
    return run_worker("benchmarks.candidates", [candidate, folder, *rules.timing.flags()], python, rules.timing.threads)


def time_operations(folder: Path, rules: Rules, right: set[str], peers: Path) -> list[dict[str, Any]]:
    """Time per kind of operation of the candidates whose outputs are right; a tool that fails leaves its error."""
    plan = rules.operations
    rows: list[dict[str, Any]] = []
    tools: tuple[tuple[str, Path, tuple[str, ...], list[str | Path]], ...] = (
        ("xnnpack_replay", Path(sys.executable), plan.executorch, ["--setup", folder]),
        ("litert_profile", Path(sys.executable), plan.litert, []),
        ("onnxruntime_profile", peers, plan.onnxruntime, []),
    )
    for tool, python, wanted, more in tools:
        names = [name for name in wanted if name in right]
        if not names:
            continue
        options = {"threads": rules.timing.threads, "rounds": plan.rounds, "runs": plan.runs}
        flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        argv: list[str | Path] = [*(candidate_file(name, folder) for name in names), *more, *flags]
        with stage("operations", model=folder.name, tool=tool):
            report = run_worker(f"benchmarks.{tool}", argv, python, rules.timing.threads)
        known = {"model": folder.name, "error": report.get("error", "")}
        timed = report.get("operations", [{}] * len(names))
        rows += [known | {"candidate": name} | row for name, row in zip(names, timed, strict=True)]
    return rows


def run_worker(module: str, argv: Sequence[str | Path], python: Path, threads: int) -> dict[str, Any]:
    """What a worker module wrote to the --report that it is given here, or {"error": its last words}."""
    with tempfile.TemporaryDirectory(prefix="edgevit-compare-") as scratch:
        report = Path(scratch, "report.json")
        command = [python, "-W", "ignore", "-m", module, *argv, "--report", report]
        try:
            done = process.run(command, timeout_s=_RUN_TIMEOUT_S, cwd=ROOT, env=_environment(threads))
        except DeviceError as error:
            return {"error": str(error)}
        if done.returncode != 0 or not report.is_file():
            logger.warning("%s failed:\n%s", module, done.stderr[-2000:])
            return {"error": done.last_error_line or done.ending}
        return json.loads(report.read_text())


def time_conversions(model: str, rules: Rules, peers: Path) -> dict[str, Any]:
    """Wall time of our command and of the baseline conversions, in turns; kept until a source changes."""
    folder, plan = WORK / model, rules.conversion
    names = [FLOAT, *plan.baseline]
    keys = {name: source_key(folder, name) for name in names}
    record = folder / "conversion-times.json"
    kept = json.loads(record.read_text()) if record.is_file() else {}
    if kept.get("keys") != keys or len(kept["rounds"]) < plan.rounds:
        kept = {"keys": keys, "rounds": [], "load_average": []}
        for number in range(plan.rounds):
            kept["load_average"].append(load_average())
            seconds = {}
            for name in names if number % 2 == 0 else reversed(names):
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    seconds[name], error = run_conversion(folder, name, Path(out), peers)
                if error:
                    return {"model": model, "limit": plan.limit, "met": None, "error": f"{name}: {error}"}
            kept["rounds"].append({name: seconds[name] for name in names})
        write_json(record, kept)
    return judge_conversion(model, kept["rounds"], plan, kept["load_average"])


def peer_versions(peers: Path) -> dict[str, str]:
    """Versions of the packages of peers.txt in the peers' environment. Raises DeviceError if there is none."""
    if not (found := shutil.which(peers)):
        raise DeviceError(f"no peers at {peers}", fix="run `make peers`, or name their Python with --peers")
    names = [line.partition("==")[0] for line in (ROOT / "benchmarks" / "peers.txt").read_text().splitlines()]
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    done = process.run([found, "-c", ask], timeout_s=60)
    if done.returncode != 0:
        raise DeviceError(f"{peers} does not run: {done.last_error_line}", fix="run `make peers` again")
    installed = json.loads(done.stdout)
    return {name: installed.get(name.lower().replace("_", "-"), "missing") for name in names if name[:1].isalpha()}


def _environment(threads: int) -> dict[str, str]:
    """Threads that wait must not spin; compiled kernels of PyTorch are kept beside the other conversions."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "TORCHINDUCTOR_CACHE_DIR": str(WORK / "inductor"),
    }


if __name__ == "__main__":
    main()
