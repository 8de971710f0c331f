"""A comparison of runtimes: its rules as data, and medians, paired ratios and verdicts from its rounds."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.baseline_conversions import CONVERSIONS
from benchmarks.candidates import CANDIDATES
from edgevit.errors import UsageError
from edgevit.profiling.latency_statistics import MIN_ROUNDS, Interval, bootstrap_ratio, median, spread

CONTROL = "control"
_NS_PER_MS = 1e6

Round = Mapping[str, Mapping[str, Any]]  # candidate or CONTROL -> its process's report, or {"error": why}


@dataclass(frozen=True, slots=True)
class Timing:
    """Rounds, and what one process does: options of `python -m benchmarks.candidates`."""

    threads: int
    rounds: int
    warmup_runs: int
    warmup_s: float
    runs: int
    min_s: float
    max_s: float

    def flags(self) -> list[str]:
        """The command-line options of one process; `candidates.add_timing` reads them."""
        options = {key: value for key, value in dataclasses.asdict(self).items() if key != "rounds"}
        return [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]


@dataclass(frozen=True, slots=True)
class Threshold:
    """The fastest of `ours` takes at most `limit` times the fastest of `against`, of those whose outputs are right."""

    models: tuple[str, ...]
    ours: tuple[str, ...]
    against: tuple[str, ...]
    limit: float


@dataclass(frozen=True, slots=True)
class ConversionRules:
    """One `edgevit convert --target all` takes at most `limit` times the baseline conversions one after the other."""

    models: tuple[str, ...]
    baseline: tuple[str, ...]
    rounds: int
    limit: float


@dataclass(frozen=True, slots=True)
class Operations:
    """Whose time is reported per operation; each runtime's candidates are timed in turns by one process."""

    executorch: tuple[str, ...]
    litert: tuple[str, ...]
    onnxruntime: tuple[str, ...]
    rounds: int
    runs: int


@dataclass(frozen=True, slots=True)
class Rules:
    """A compare-runtimes.toml."""

    models: tuple[str, ...]
    candidates: tuple[str, ...]
    control: str
    seed: int
    max_relative_error: float
    timing: Timing
    conversion: ConversionRules
    operations: Operations
    thresholds: tuple[Threshold, ...]

    def __post_init__(self) -> None:
        recorded = (*self.operations.executorch, *self.operations.litert, *self.operations.onnxruntime)
        judged = (name for one in self.thresholds for name in (*one.ours, *one.against))
        named = {self.control, *self.candidates, *recorded, *judged}
        compared = {*self.conversion.models, *(model for one in self.thresholds for model in one.models)}
        for kind, wanted, known in (
            ("candidate", named, CANDIDATES),
            ("candidate", named, self.candidates),
            ("conversion", self.conversion.baseline, CONVERSIONS),
            ("model", compared, self.models),
        ):
            if unknown := sorted(set(wanted) - set(known)):
                raise UsageError(f"the rules name an unknown {kind} {unknown[0]!r}", fix=f"one of: {', '.join(known)}")


def read_rules(path: Path) -> Rules:
    """Rules from TOML; a missing or an unknown key is an error."""
    document = tomllib.loads(path.read_text())
    timing = _fill(Timing, document.pop("timing", {}), f"{path} [timing]")
    conversion = _fill(ConversionRules, document.pop("conversion", {}), f"{path} [conversion]")
    operations = _fill(Operations, document.pop("operations", {}), f"{path} [operations]")
    thresholds = tuple(_fill(Threshold, table, f"{path} [[thresholds]]") for table in document.pop("thresholds", ()))
    parts = {"timing": timing, "conversion": conversion, "operations": operations, "thresholds": thresholds}
    return _fill(Rules, document | parts, str(path))


def _fill(kind: type, table: Mapping[str, Any], where: str) -> Any:
    fields = {field.name for field in dataclasses.fields(kind)}
    if set(table) != fields:
        raise UsageError(f"{where} has keys {sorted(table)}", fix=f"it must have {sorted(fields)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new`, with what `old` has on models that `new` did not time; each model keeps the provenance of its own run.

    Raises UsageError if the two were compared by different rules.
    """
    for rule in ("candidates", "control", "seed", "max_relative_error", "timing", "thresholds"):
        if json.dumps(old["rules"][rule]) != json.dumps(new["rules"][rule]):
            raise UsageError(f"the kept result had another {rule}", fix="compare all models again")
    compared = {summary["model"] for summary in new["models"]}
    both = {**new}
    for part in ("models", "thresholds", "conversion", "operations"):
        kept = [row for row in old[part] if row["model"] not in compared]
        both[part] = sorted((*new[part], *kept), key=lambda row: new["rules"]["models"].index(row["model"]))
    return both


def summarize(rounds: Sequence[Round], rules: Rules, cores: int) -> dict[str, Any]:
    """One model's rounds as the result file keeps them: candidates, control, every ratio of ours, flags."""
    rows = [candidate_row(name, rounds, rules.max_relative_error) for name in rules.candidates]
    right = {row["candidate"] for row in rows if is_right(row)}
    ratios = [
        {"ours": ours, "against": other} | interval_json(paired_ratio(rounds, ours, other))
        for ours in rules.candidates
        for other in rules.candidates
        if CANDIDATES[ours].ours and CANDIDATES[other].conversion != CANDIDATES[ours].conversion
        if {ours, other} <= right
    ]
    control = paired_ratio(rounds, CONTROL, rules.control) if rules.control in right and _all_ran(rounds) else None
    return {
        "rounds": len(rounds),
        "candidates": rows,
        "control": control and {"candidate": rules.control} | interval_json(control),
        "ratios": ratios,
        "load_average": [_load(one) for one in rounds],
        "flags": result_flags(rounds, control, cores),
    }


def candidate_row(name: str, rounds: Sequence[Round], max_relative_error: float) -> dict[str, Any]:
    """Times of one candidate, milliseconds; `error` says why it has none, `wrong` that they count for nothing."""
    row: dict[str, Any] = {"candidate": name, "title": CANDIDATES[name].title, "error": "", "wrong": False}
    reports = [one[name] for one in rounds]
    if failed := [report["error"] for report in reports if report.get("error")]:
        return row | {"error": failed[0]}
    errors = [math.inf if report["relative_error"] is None else report["relative_error"] for report in reports]
    medians = round_medians(rounds, name)
    return row | {
        "wrong": max(errors) > max_relative_error,
        "relative_error": None if math.isinf(max(errors)) else max(errors),
        "runtime": reports[0]["runtime"],
        "median_ms": median(medians),
        "spread": spread(medians),
        "load_ms": median([report["load_ns"] / _NS_PER_MS for report in reports]),
        "first_ms": median([report["first_ns"] / _NS_PER_MS for report in reports]),
        "runs": sum(len(report["samples_ns"]) for report in reports),
        "rounds_ms": medians,
    }


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether a candidate ran and its output is the network's."""
    return not row["error"] and not row["wrong"]


def round_medians(rounds: Sequence[Round], name: str) -> list[float]:
    """The median of every round's process, milliseconds."""
    return [median(one[name]["samples_ns"]) / _NS_PER_MS for one in rounds]


def paired_ratio(rounds: Sequence[Round], ours: str, against: str) -> Interval:
    """Median over rounds of (median of ours / median of the other in the same round), with its interval."""
    pairs = zip(round_medians(rounds, ours), round_medians(rounds, against), strict=True)
    return bootstrap_ratio([one / other for one, other in pairs])


def interval_json(interval: Interval) -> dict[str, float]:
    return {"ratio": interval.estimate, "low": interval.low, "high": interval.high}


def judge_thresholds(model: str, summary: Mapping[str, Any], thresholds: Sequence[Threshold]) -> list[dict[str, Any]]:
    """Every threshold of a model: the fastest of each side, their ratio, and whether it is within the limit.

    met is None where no output of a side is right: nothing was shown either way.
    """
    times = {row["candidate"]: row["median_ms"] for row in summary["candidates"] if is_right(row)}
    ratios = {(row["ours"], row["against"]): row for row in summary["ratios"]}
    judged = []
    for one in (one for one in thresholds if model in one.models):
        sides = [[name for name in side if name in times] for side in (one.ours, one.against)]
        row: dict[str, Any] = {"model": model, "limit": one.limit, "met": None}
        if all(sides):
            ours, against = (min(side, key=times.__getitem__) for side in sides)
            row |= ratios[ours, against] | {"met": ratios[ours, against]["ratio"] <= one.limit}
        else:
            row |= {"ours": one.ours[0], "against": one.against[0]}
        judged.append(row)
    return judged


def judge_conversion(
    model: str, rounds: Sequence[Mapping[str, Any]], rules: ConversionRules, load: Sequence[float | None]
) -> dict[str, Any]:
    """Seconds of our command over the sum of the baseline conversions of the same round; rounds: name -> seconds."""
    baseline = [sum(one[name] for name in rules.baseline) for one in rounds]
    ratio = bootstrap_ratio([one["edgevit"] / other for one, other in zip(rounds, baseline, strict=True)])
    return {
        "model": model,
        "error": "",
        "limit": rules.limit,
        "met": ratio.estimate <= rules.limit,
        **interval_json(ratio),
        "ours_s": median([one["edgevit"] for one in rounds]),
        "baseline_s": {name: median([one[name] for one in rounds]) for name in rules.baseline},
        "rounds": list(rounds),
        "load_average": list(load),
    }


def _all_ran(rounds: Sequence[Round]) -> bool:
    return not any(one[CONTROL].get("error") for one in rounds)


def _load(one: Round) -> float | None:
    return max(
        (report["load_average"] for report in one.values() if report.get("load_average") is not None), default=None
    )


def result_flags(rounds: Sequence[Round], control: Interval | None, cores: int) -> list[str]:
    """What speaks against these numbers."""
    flags = []
    if len(rounds) < MIN_ROUNDS:
        flags.append(f"{len(rounds)} rounds are too few for a 95 % interval")
    if control is not None and not control.includes(1.0):
        flags.append(f"the A/A noise control gave [{control.low:.3f}, {control.high:.3f}]")
    if busy := sum((_load(one) or 0.0) > cores for one in rounds):
        flags.append(f"more work than {cores} cores in {busy} of {len(rounds)} rounds")
    return flags
