"""Tables of speed: milliseconds, images per second, and where the time goes."""

from __future__ import annotations

from typing import Any

from benchmarks.operations import KINDS
from benchmarks.tables.committed import committed, interval, tools, unmeasured


def compare_runtimes() -> str:
    """Latency of every candidate, the thresholds, conversion times; what speaks against a number stands under it."""
    return compared("compare-runtimes", "float32, ", "make compare-runtimes")


def compare_runtimes_int8() -> str:
    """Latency in int8 beside float, on two processors: what int8 gains depends on the kernels that each one has."""
    return "\n".join(
        compared(name, "", "make compare-runtimes-int8")
        for name in ("compare-runtimes-int8", "compare-runtimes-int8-intel")
    )


def compared(name: str, numbers: str, command: str) -> str:
    result = committed(name)
    models = result["models"]
    names = list(dict.fromkeys(row["candidate"] for model in models for row in model["candidates"]))
    timing = result["rules"]["timing"]
    lines = [
        "| milliseconds | " + " | ".join(model["model"] for model in models) + " |",
        "|---|" + "---:|" * len(models),
        *(_latencies(name, models) for name in names),
        "",
        "| model | ours | against | ratio, 95 % interval | threshold | |",
        "|---|---|---|---|---:|---|",
        *(_threshold_row(row) for row in result["thresholds"]),
        *(_conversion_time_row(row) for row in result["conversion"]),
        "",
        *(_comparison_note(model) for model in models),
        "",
        f"{result['cpu']}, {result['cores']} cores; {timing['threads']} thread, batch 1, 224x224, {numbers}the same "
        f"seeded weights for all; medians over {timing['rounds']} rounds of one fresh process per candidate, at least "
        f"{timing['runs']} runs each; {tools(result['provenance']['tools'] | result['peers'])}; made by `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def _latencies(name: str, models: list[dict[str, Any]]) -> str:
    """One candidate in every model."""
    rows = [next((row for row in model["candidates"] if row["candidate"] == name), None) for model in models]
    title = next(row["title"] for row in rows if row)
    shown = f"**{title}**" if name.startswith("edgevit_") else title
    return "| " + " | ".join([shown, *(_latency(row) for row in rows)]) + " |"


def _latency(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    if row["error"]:
        return "failed"
    if row["wrong"]:
        return f"WRONG, rel. error {_error(row)}"
    return f"{row['median_ms']:.2f}"


def _error(row: dict[str, Any]) -> str:
    return "not finite" if row["relative_error"] is None else f"{row['relative_error']:.1e}"


def _threshold_row(row: dict[str, Any]) -> str:
    cells = (row["model"], row["ours"], row["against"], interval(row), f"{row['limit']:.2f}", _verdict(row))
    return "| " + " | ".join(cells) + " |"


def _conversion_time_row(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"| {row['model']} | `convert --target all` | | | {row['limit']:.2f} | failed: {row['error']} |"
    cells = (
        row["model"],
        f"`convert --target all`, {row['ours_s']:.0f} s",
        " + ".join(f"{name} {seconds:.0f} s" for name, seconds in row["baseline_s"].items()) + ", one after the other",
        interval(row),
        f"{row['limit']:.2f}",
        _verdict(row),
    )
    return "| " + " | ".join(cells) + " |"


def _verdict(row: dict[str, Any]) -> str:
    """met or not met by the estimate; within noise if the interval holds the limit."""
    if row["met"] is None:
        return "not judged: no right output on one side"
    noise = ", within noise" if row["low"] <= row["limit"] <= row["high"] else ""
    return ("met" if row["met"] else "not met") + noise


def _comparison_note(model: dict[str, Any]) -> str:
    """The control's interval, what failed and why, and what else the reader must know of a model's numbers."""
    control = model["control"]
    noise = f"A/A noise control {interval(control)}" if control else "no A/A noise control"
    failed = [f"{row['title']} failed: {row['error']}" for row in model["candidates"] if row["error"]]
    return f"- {model['model']}: {'; '.join([noise, *failed, *model['flags']])}."


def operations() -> str:
    """Milliseconds and number of operations per kind, ours beside baselines, and how much of the whole they explain."""
    rows = committed("compare-runtimes")["operations"]
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and not row["error"]]
        lines += [
            f"| {model}, ms (operations) | " + " | ".join(row["candidate"] for row in own) + " |",
            "|---|" + "---:|" * len(own),
            *(_kind_row(kind, own) for kind in KINDS if any(kind in row["kinds"] for row in own)),
            "| **sum** | " + " | ".join(f"**{row['sum_ms']:.2f}**" for row in own) + " |",
            "| whole network | " + " | ".join(f"{row['whole_ms']:.2f}" for row in own) + " |",
            "| operations outside the delegate | "
            + " | ".join(str(sum(row["outside"].values())) for row in own)
            + " |",
            "",
        ]
    failed = [f"- {row['candidate']} of {row['model']} failed: {row['error']}." for row in rows if row["error"]]
    return "\n".join([*lines, *failed]).rstrip() + "\n"


def _kind_row(kind: str, rows: list[dict[str, Any]]) -> str:
    found = [row["kinds"].get(kind) for row in rows]
    cells = [f"{one['ms']:.2f} ({one['count']})" if one else "–" for one in found]
    return f"| {kind} | " + " | ".join(cells) + " |"


def server() -> str:
    """Images per second of every candidate by model, processor and batch, and our time over compiled PyTorch's."""
    result = committed("server")
    names = list(dict.fromkeys(row["candidate"] for entry in result["rows"] for row in entry["candidates"]))
    titles = {row["candidate"]: row["title"] for entry in result["rows"] for row in entry["candidates"]}
    timing = result["plan"]["timing"]
    rows = result["rows"]
    notes = [(f"{_server_name(row)}, batch {row['batch']}", flag) for row in rows for flag in row["flags"]]
    machine = f"{result['cpu']}, {result['cores']} cores" + (f", {result['gpu']}" if result["gpu"] else "")
    lines = [
        "| images/s | batch | " + " | ".join(titles[name] for name in names) + " | time against compiled |",
        "|---|---:|" + "---:|" * len(names) + "---|",
        *(_server_row(entry, names) for entry in result["rows"]),
        "",
        *(f"- {name}: {flag}." for name, flag in notes),
        "",
        f"{machine}; {timing['threads']} CPU threads, the same seeded weights for all; medians over {timing['rounds']} "
        f"rounds of one fresh process per candidate; {tools(result['provenance']['tools'])}; made by `make server`."
        f"{unmeasured('server')}",
    ]
    return "\n".join(lines) + "\n"


def _server_row(entry: dict[str, Any], names: list[str]) -> str:
    rows = {row["candidate"]: row for row in entry["candidates"]}
    ratios = [
        f"{row['ours']} {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in entry["ratios"]
        if row["against"] == "compile"
    ]
    cells = [_rate(rows.get(name)) for name in names]
    return f"| {_server_name(entry)} | {entry['batch']} | {' | '.join(cells)} | {', '.join(ratios) or '–'} |"


def _server_name(entry: dict[str, Any]) -> str:
    return f"{entry['model']}, {entry['accelerator']} {entry['precision']}"


def _rate(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return "failed" if row["error"] else "wrong" if row["wrong"] else f"{row['images_per_s']:.1f}"
