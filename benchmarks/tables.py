"""`python -m benchmarks.tables`: puts the committed results into README, between its markers.

A marker pair is `<!-- table: NAME -->` ... `<!-- /table -->`; NAME is a function here. A test renders README again
and compares, so a number that was typed by hand does not survive.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.operations import KINDS
from edgevit.scoring import recorded_scores
from edgevit.training.recipe import RECIPES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_MARKED = re.compile(r"(<!-- table: ([a-z0-9_]+) -->\n).*?(<!-- /table -->)", re.S)


def render(text: str) -> str:
    """README's text with every marked table made anew."""
    return _MARKED.sub(lambda match: match[1] + globals()[match[2]]() + match[3], text)


def recipes() -> str:
    """What sets the recipes that come with edgevit apart."""
    columns = {
        "epochs": lambda recipe: f"{recipe.epochs}",
        "batch": lambda recipe: f"{recipe.batch_size}",
        "learning rate": lambda recipe: f"{recipe.learning_rate:g}",
        "smoothing": lambda recipe: f"{recipe.label_smoothing:g}",
        "EMA": lambda recipe: f"{recipe.ema_decay:g}" if recipe.ema_decay else "–",
        "mixup, cutmix": lambda recipe: f"{recipe.mixup_alpha:g}, {recipe.cutmix_alpha:g}",
        "augmentation": lambda recipe: (
            ", ".join(
                f"{field.name} {value:g}"
                for field in dataclasses.fields(recipe.augmentation)
                if (value := getattr(recipe.augmentation, field.name)) != field.default
            )
            or "–"
        ),
    }
    lines = ["| recipe | " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1) + "---|"]
    for name, recipe in RECIPES.items():
        lines.append(f"| `{name}` | " + " | ".join(cell(recipe) for cell in columns.values()) + " |")
    return "\n".join(lines) + "\n"


def conversion() -> str:
    """The models of phones and boards in their targets."""
    return _matrix("conversion")


def server_conversion() -> str:
    """The models of the server tier in theirs."""
    return _matrix("server-conversion")


def _matrix(name: str) -> str:
    """A line per model: parity with the checkpoint, sizes and seconds, by target and precision."""
    result = _result(name)
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
        f"{_tools(result['provenance']['tools'])}; seeded random weights, 2 pictures and 2 random inputs per file; "
        f"made by `make matrix`.{_unmeasured(name)}",
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


def _unmeasured(benchmark: str) -> str:
    """The models of a benchmark that its result has no rows of yet."""
    measured = {row["model"] for row in _result(benchmark)["rows"]}
    models = tomllib.loads((ROOT / "benchmarks" / f"{benchmark}.toml").read_text())["models"]
    left = [name for name in models if name not in measured]
    return f" Not measured yet: {', '.join(left)}." if left else ""


def coreml_options() -> str:
    """What Core ML's options cost: closeness to the checkpoint and size, one model of each family."""
    rows = _result("coreml-weights")["rows"]
    columns = list(dict.fromkeys(_options(row) for row in rows))
    cells = {(row["model"], _options(row)): row for row in rows}
    lines = ["| model | " + " | MB | ".join(f"`{name}`" for name in columns) + " | MB |"]
    lines.append("|---|" + "---|---:|" * len(columns))
    for model in dict.fromkeys(row["model"] for row in rows):
        lines.append(f"| {model} | " + " | ".join(_closeness(cells[model, name]) for name in columns) + " |")
    return "\n".join([*lines, "", "Made by `make coreml`."]) + "\n"


def _options(row: dict[str, Any]) -> str:
    """ "weights=int8" of a row's options."""
    return " ".join(f"{key}={str(value).lower()}" for key, value in row["options"].items())


def _closeness(row: dict[str, Any]) -> str:
    """Two cells: SNR in dB, and megabytes."""
    if row["error"]:
        return f"failed: {row['error']} | "
    return f"{row['parity']['snr_db']:.1f} dB | {row['size_bytes'] / 1e6:.1f}"


def sizes() -> str:
    """The largest relative error over all sizes, by model and target."""
    result = _result("sizes")
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        rows.setdefault((row["model"], row["target"]), []).append(row)
    lines = [
        "| model | target | sizes | largest rel. error | delegate regions | transposes |",
        "|---|---|---|---:|---:|---:|",
        *(_size_row(model, target, group) for (model, target), group in rows.items()),
        "",
        f"{_tools(result['provenance']['tools'])}; fp32, seeded random weights; made by `make sizes`.",
    ]
    return "\n".join(lines) + "\n"


def demo() -> str:
    """The digits demo: accuracy of checkpoint and artifacts, parity, size, latency on the machine that ran it."""
    rows = _result("demo")["artifacts"]
    lines = [
        "| artifact | top-1 checkpoint | top-1 artifact | parity with the checkpoint | MB | latency p50, 1 thread |",
        "|---|---:|---:|---|---:|---:|",
        *(_demo_row(row) for row in rows),
        "",
        "Made by `make demo`; latency is of a small shared x86 machine, not of a phone.",
    ]
    return "\n".join(lines) + "\n"


def race() -> str:
    """Latency of every contender, the bars, conversion times; what speaks against a number stands under it."""
    return _raced("race", "float32, ", "make race")


def race_int8() -> str:
    """Latency in int8 beside float."""
    return _raced("race-int8", "", "make race-int8")


def _raced(name: str, numbers: str, command: str) -> str:
    result = _result(name)
    models = result["models"]
    names = list(dict.fromkeys(row["contender"] for model in models for row in model["contenders"]))
    timing = result["race"]["timing"]
    lines = [
        "| milliseconds | " + " | ".join(model["model"] for model in models) + " |",
        "|---|" + "---:|" * len(models),
        *(_latencies(name, models) for name in names),
        "",
        "| model | ours | against | ratio, 95 % interval | bar | |",
        "|---|---|---|---|---:|---|",
        *(_bar_row(row) for row in result["bars"]),
        *(_conversion_time_row(row) for row in result["conversion"]),
        "",
        *(_race_note(model) for model in models),
        "",
        f"{result['cpu']}, {result['cores']} cores; {timing['threads']} thread, batch 1, 224x224, {numbers}the same "
        f"seeded weights for all; medians over {timing['rounds']} rounds of one fresh process per contender, at least "
        f"{timing['runs']} runs each; {_tools(result['provenance']['tools'] | result['peers'])}; made by `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def server() -> str:
    """Images per second of every contender by model, machine part, precision and batch, and how ours stand to them."""
    result = _result("server")
    names = list(dict.fromkeys(row["contender"] for entry in result["rows"] for row in entry["contenders"]))
    titles = {row["contender"]: row["title"] for entry in result["rows"] for row in entry["contenders"]}
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
        f"rounds of one fresh process per contender; {_tools(result['provenance']['tools'])}; made by `make server`."
        f"{_unmeasured('server')}",
    ]
    return "\n".join(lines) + "\n"


def cost() -> str:
    """Seconds and peak memory of `edgevit convert` by model and target, and how they grow with parameters."""
    result = _result("cost")
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
        f"{_tools(result['provenance']['tools'])}; made by `make cost`.",
    ]
    return "\n".join(lines) + "\n"


def _price(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.0f} s, {row['peak_bytes'] / 2**30:.1f} GiB"


def _server_row(entry: dict[str, Any], names: list[str]) -> str:
    rows = {row["contender"]: row for row in entry["contenders"]}
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


def operations() -> str:
    """Milliseconds and number of operations per kind, ours beside stock, and how much of the whole they explain."""
    rows = _result("race")["operations"]
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and not row["error"]]
        lines += [
            f"| {model}, ms (operations) | " + " | ".join(row["contender"] for row in own) + " |",
            "|---|" + "---:|" * len(own),
            *(_kind_row(kind, own) for kind in KINDS if any(kind in row["kinds"] for row in own)),
            "| **sum** | " + " | ".join(f"**{row['sum_ms']:.2f}**" for row in own) + " |",
            "| whole network | " + " | ".join(f"{row['whole_ms']:.2f}" for row in own) + " |",
            "| operations outside the delegate | "
            + " | ".join(str(sum(row["outside"].values())) for row in own)
            + " |",
            "",
        ]
    failed = [f"- {row['contender']} of {row['model']} failed: {row['error']}." for row in rows if row["error"]]
    return "\n".join([*lines, *failed]).rstrip() + "\n"


def interpreter() -> str:
    """What the Core ML interpreter was held to: a foreign test suite, damaged packages, eager PyTorch."""
    suite, damage, speed = (_result(name) for name in ("coreml-conformance", "coreml-mutations", "interpreter-speed"))
    lines = [
        "| check | result | command |",
        "|---|---|---|",
        f"| coremltools' own op tests | {suite['passed']} of {suite['counted']} pass | `make conformance` |",
        f"| damages that change the result by more than {damage['limit']:.0e} | {damage['caught']} of "
        f"{damage['must_catch']} caught | `python -m benchmarks.mutations` |",
        f"| {speed['model']} at 224, time against eager PyTorch, {speed['threads']} thread | {speed['ratio']:.2f} | "
        "`python -m benchmarks.interpreter_speed` |",
    ]
    return "\n".join(lines) + "\n"


def int8() -> str:
    """The score of every form of each model on the same pictures, and how the artifacts agree."""
    result = _result("int8")
    lines = [
        "| model | form | score | points below float, 95 % interval | agreement with int8, trained | MB, of fp32 |",
        "|---|---|---:|---|---|---|",
    ]
    for model in result["models"]:
        lines += [_int8_row(model["model"], row) for row in model["rows"]]
    agreements = [share for model in result["models"] for share in model["agreement"].values()]
    tasks = dict.fromkeys(_int8_task(model.get("course", result.get("course")), model) for model in result["models"])
    lines += [
        "",
        f"{'; '.join(tasks)}; any two targets agree on {100 * min(agreements):.1f} % of the pictures or pixels, "
        f"or more; {result['cpu']}; {_tools(result['provenance']['tools'])}; made by `make int8`.",
    ]
    return "\n".join(lines) + "\n"


def _int8_task(course: dict[str, Any], model: dict[str, Any]) -> str:
    return f"`{course['data']}`, {model['pictures']} test pictures of {course['input_size']} pixels a side"


_FORMS = {"float": "float", "ptq": "int8, post-training", "qat": "int8, trained"}


def _int8_row(model: str, row: dict[str, Any]) -> str:
    drop = row["drop"]
    lost = "–" if row["form"] == "float" else f"{drop['points']:.2f} [{drop['low']:.2f}, {drop['high']:.2f}]"
    agreement = size = "–"
    if "agreement" in row:
        closeness = "equal" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
        agreement = f"{100 * row['agreement']:.2f} %, {closeness}, {100 * row['equal_answers']:.1f} % to the bit"
        size = f"{row['size_bytes'] / 1e6:.1f}, {row['size_ratio']:.2f}"
    form = _FORMS.get(row["form"], row["form"])
    metric, score = next(iter(recorded_scores(row).items()))
    return f"| {model} | {form} | {100 * score:.2f} % {metric} | {lost} | {agreement} | {size} |"


def compressed() -> str:
    """The score of every compressed form of each model in each target, on the same pictures."""
    result = _result("compressed")
    tasks = dict.fromkeys(f"`{row['data']}`, {row['pictures']} test pictures" for row in result["rows"])
    lines = [
        "| model | form | target | score | points below float, 95 % interval | agreement with float | MB, of fp32 |",
        "|---|---|---|---:|---|---|---|",
        *(_compressed_row(row) for row in result["rows"]),
        "",
        f"{'; '.join(tasks)}; {result['cpu']}; {_tools(result['provenance']['tools'])}; made by `make compressed`.",
    ]
    return "\n".join(lines) + "\n"


def _compressed_row(row: dict[str, Any]) -> str:
    lost = agreement = size = "–"
    if row["form"] != "float":
        lost = f"{row['drop']['points']:.2f} [{row['drop']['low']:.2f}, {row['drop']['high']:.2f}]"
        closeness = "equal" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
        agreement = f"{100 * row['agreement']:.2f} %, {closeness}"
    if "size_bytes" in row:
        size = f"{row['size_bytes'] / 1e6:.1f}, {row['size_ratio']:.2f}"
    metric, score = next(iter(row["scores"].items()))
    cells = (row["model"], row["form"], row["target"] or "–", f"{100 * score:.2f} % {metric}", lost, agreement, size)
    return "| " + " | ".join(cells) + " |"


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


def _kind_row(kind: str, rows: list[dict[str, Any]]) -> str:
    found = [row["kinds"].get(kind) for row in rows]
    cells = [f"{one['ms']:.2f} ({one['count']})" if one else "–" for one in found]
    return f"| {kind} | " + " | ".join(cells) + " |"


def _latencies(name: str, models: list[dict[str, Any]]) -> str:
    """One contender in every model."""
    rows = [next((row for row in model["contenders"] if row["contender"] == name), None) for model in models]
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


def _bar_row(row: dict[str, Any]) -> str:
    cells = (row["model"], row["ours"], row["against"], _interval(row), f"{row['limit']:.2f}", _verdict(row))
    return "| " + " | ".join(cells) + " |"


def _conversion_time_row(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"| {row['model']} | `convert --target all` | | | {row['limit']:.2f} | failed: {row['error']} |"
    stock = row["stock_s"]
    cells = (
        row["model"],
        f"`convert --target all`, {row['ours_s']:.0f} s",
        " + ".join(f"{name} {seconds:.0f} s" for name, seconds in stock.items()) + ", one after the other",
        _interval(row),
        f"{row['limit']:.2f}",
        _verdict(row),
    )
    return "| " + " | ".join(cells) + " |"


def _interval(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if "ratio" in row else "–"


def _verdict(row: dict[str, Any]) -> str:
    """met or not met by the estimate; within noise if the interval holds the limit."""
    if row["met"] is None:
        return "not judged: no right answer on one side"
    noise = ", within noise" if row["low"] <= row["limit"] <= row["high"] else ""
    return ("met" if row["met"] else "not met") + noise


def _race_note(model: dict[str, Any]) -> str:
    """The control's interval, what failed and why, and what else the reader must know of a model's numbers."""
    control = model["control"]
    same = f"same file against itself {_interval(control)}" if control else "no control"
    failed = [f"{row['title']} failed: {row['error']}" for row in model["contenders"] if row["error"]]
    return f"- {model['model']}: {'; '.join([same, *failed, *model['flags']])}."


def _demo_row(row: dict[str, Any]) -> str:
    accuracy = row["accuracy"]
    cells = (
        row["name"],
        f"{100 * accuracy['checkpoint']:.1f} %",
        "–" if accuracy["artifact"] is None else f"{100 * accuracy['artifact']:.1f} %",
        _agreement(row["agreement"]),
        f"{row['size_bytes'] / 1e6:.1f}",
        f"{row['latencies'][0]['p50_ms']:.2f} ms" if row["latencies"] else "–",
    )
    return "| " + " | ".join(cells) + " |"


def _agreement(parity: dict[str, Any]) -> str:
    """Relative error and SNR, and where they were measured if not in the target's own runtime."""
    if not parity["samples"]:
        return "checked, not executed"
    snr = "equal to the bit" if parity["snr_db"] is None else f"{parity['snr_db']:.0f} dB"
    place = ", interpreter" if parity["runtime"].startswith("reference") else ""
    return f"rel. error {parity['max_relative_error']:.1e}, {snr}{place}"


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _tools(tools: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items() if version and name != "edgevit")


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))
