"""Tables of what `convert` makes: parity, sizes, seconds and memory, by model and target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.tables.committed import committed, tools, unmeasured


def conversion() -> str:
    """The models of phones and boards in their targets."""
    return _matrix("conversion")


def server_conversion() -> str:
    """The models of the server tier in theirs."""
    return _matrix("server-conversion")


def _matrix(name: str) -> str:
    """A line per model: parity with the checkpoint, sizes and seconds, by target and precision."""
    result = committed(name)
    rows = {(row["model"], row["target"], row["precision"]): row for row in result["rows"]}
    targets, precisions = (list(dict.fromkeys(key[axis] for key in rows)) for axis in (1, 2))
    lines = [
        f"| model | pixels | M params | {' | '.join(targets)} | MB | seconds | transposes |",
        "|---|---:|---:|" + "---:|" * len(targets) + "---:|---:|---:|",
    ]
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        by_target = [[rows.get((model, target, precision)) for precision in precisions] for target in targets]
        full = [forms[0] for forms in by_target]
        known = next((row for row in full if row and not row["error"]), None)
        cells = [model, *([str(known["input_size"]), f"{known['params'] / 1e6:.1f}"] if known else "––")]
        cells += [", ".join(_of(row, _decibels) for row in forms) for forms in by_target]
        cells.append(", ".join(_of(row, lambda row: f"{row['size_bytes'] / 1e6:.1f}") for row in by_target[0]))
        cells.append(", ".join(_of(row, lambda row: f"{row['conversion_s']:.0f}") for row in full))
        cells.append(", ".join(_of(row, lambda row: _number(row["lowering"]["transposes"])) for row in full))
        lines.append("| " + " | ".join(cells) + " |")
    exact = [row for row in rows.values() if row["precision"] == "fp32" and not row["error"]]
    worst = max(row["parity"]["max_relative_error"] for row in exact)
    lines += [
        "",
        f"Targets: dB in {', '.join(precisions)}. MB: {targets[0]}, {', '.join(precisions)}. Seconds (of the "
        f"converter) and transposes: fp32, in the order of the targets. Largest relative error in fp32: {worst:.1e}. "
        f"{_outside(rows.values())}{result['cpu']}, {result['cores']} cores; "
        f"{tools(result['provenance']['tools'])}; seeded random weights, 2 images and 2 random inputs per file; "
        f"made by `make matrix`.{unmeasured(name)}",
    ]
    return "\n".join(lines) + "\n"


def _decibels(row: dict[str, Any]) -> str:
    decibels = row["parity"]["snr_db"]
    return "equal" if decibels is None else f"{decibels:.0f}"


def _of(row: dict[str, Any] | None, cell: Callable[[dict[str, Any]], str]) -> str:
    """What `cell` makes of a row; a dash without one, the error of one that failed."""
    if row is None:
        return "–"
    return f"failed: {row['error']}" if row["error"] else cell(row)


def _outside(rows: Iterable[dict[str, Any]]) -> str:
    """Which files leave operations to the runtime, outside their delegate; nothing if no target has one."""
    delegated = [row for row in rows if not row["error"] and row["lowering"]["delegated"] is not None]
    left = [
        f"{row['model']} {row['target']} {row['precision']} ({row['lowering']['nodes'] - row['lowering']['delegated']})"
        for row in delegated
        if row["lowering"]["nodes"] > row["lowering"]["delegated"]
    ]
    if not delegated:
        return ""
    counted = f"XNNPACK takes every operation of {len(delegated) - len(left)} of {len(delegated)} files for it"
    return f"{counted}, all but a few in: {', '.join(left)}. " if left else f"{counted}. "


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)


def coreml_options() -> str:
    """What Core ML's options cost: closeness to the checkpoint and size, one model of each family."""
    rows = committed("coreml-weights")["rows"]
    columns = list(dict.fromkeys(_options(row) for row in rows))
    cells = {(row["model"], _options(row)): row for row in rows}
    lines = ["| model | " + " | MB | ".join(f"`{name}`" for name in columns) + " | MB |"]
    lines.append("|---|" + "---|---:|" * len(columns))
    for model in dict.fromkeys(row["model"] for row in rows):
        lines.append(f"| {model} | " + " | ".join(_closeness(cells[model, name]) for name in columns) + " |")
    return "\n".join([*lines, "", "Made by `make coreml`."]) + "\n"


def _options(row: dict[str, Any]) -> str:
    """ "weight_compression=int8" of a row's options."""
    return " ".join(f"{key}={str(value).lower()}" for key, value in row["options"].items())


def _closeness(row: dict[str, Any]) -> str:
    """Two cells: SNR in dB, and megabytes."""
    if row["error"]:
        return f"failed: {row['error']} | "
    return f"{row['parity']['snr_db']:.1f} dB | {row['size_bytes'] / 1e6:.1f}"


def sizes() -> str:
    """The largest relative error over all sizes, by model and target."""
    result = committed("sizes")
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        rows.setdefault((row["model"], row["target"]), []).append(row)
    lines = [
        "| model | target | sizes | largest rel. error | delegate regions | transposes |",
        "|---|---|---|---:|---:|---:|",
        *(_size_row(model, target, group) for (model, target), group in rows.items()),
        "",
        f"{tools(result['provenance']['tools'])}; fp32, seeded random weights; made by `make sizes`.",
    ]
    return "\n".join(lines) + "\n"


def _size_row(model: str, target: str, rows: list[dict[str, Any]]) -> str:
    right = [row for row in rows if not row["error"]]
    sizes = [row["input_size"] for row in right]
    errors = [row["parity"]["max_relative_error"] for row in right]
    regions, transposes = ({row["lowering"][key] for row in right} for key in ("regions", "transposes"))
    span = f"{len(right)} of {len(rows)} right" + (f", {min(sizes)} to {max(sizes)}" if sizes else "")
    worst = f"{max(errors):.1e}" if errors else "–"
    return f"| {model} | {target} | {span} | {worst} | {_span(regions)} | {_span(transposes)} |"


def _span(values: set[int | None]) -> str:
    """ "1" where all are equal, "30–38" where they differ."""
    known = sorted(value for value in values if value is not None)
    return "–" if not known else str(known[0]) if known[0] == known[-1] else f"{known[0]}–{known[-1]}"


def cost() -> str:
    """Seconds and peak memory of `edgevit convert` by model and target, and how they grow with parameters."""
    result = committed("cost")
    rows = {(row["model"], row["target"]): row for row in result["rows"]}
    targets = list(dict.fromkeys(row["target"] for row in result["rows"]))
    lines = [f"| model | M params | {' | '.join(targets)} |", "|---|---:|" + "---:|" * len(targets)]
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        cells = [_of(rows.get((model, target)), _price) for target in targets]
        params = next(row["params"] for row in result["rows"] if row["model"] == model)
        lines.append(f"| {model} | {params / 1e6:.1f} | {' | '.join(cells)} |")
    loads = [row["load_average"] for row in result["rows"]]
    growth = (result["exponents"].get(target) for target in targets)
    cells = ["–" if one is None else f"{one['seconds']:.2f}, {one['peak_bytes']:.2f}" for one in growth]
    lines += [
        f"| growth | | {' | '.join(cells)} |",
        "",
        "Seconds and GiB of the whole command, its export and its checks among them; growth: from the first model to "
        f"the last, as the power of the parameters that fits. {result['cpu']}, {result['cores']} cores, load average "
        f"{min(loads):.0f} to {max(loads):.0f}; "
        f"{tools(result['provenance']['tools'])}; made by `make cost`.",
    ]
    return "\n".join(lines) + "\n"


def _price(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.0f} s, {row['peak_bytes'] / 2**30:.1f} GiB"


def interpreter() -> str:
    """What the Core ML interpreter was held to: a foreign test suite, damaged packages, eager PyTorch."""
    suite, damage, speed = (committed(name) for name in ("coreml-conformance", "coreml-mutations", "interpreter-speed"))
    lines = [
        "| check | result | command |",
        "|---|---|---|",
        f"| coremltools' own op tests | {suite['passed']} of {suite['counted']} pass | `make conformance` |",
        f"| damages that change the result by more than {damage['limit']:.0e} | {damage['caught']} of "
        f"{damage['must_catch']} caught | `python -m benchmarks.coreml_mutations` |",
        f"| {speed['model']} at 224, time against eager PyTorch, {speed['threads']} thread | {speed['ratio']:.2f} | "
        "`python -m benchmarks.interpreter_speed` |",
    ]
    return "\n".join(lines) + "\n"
