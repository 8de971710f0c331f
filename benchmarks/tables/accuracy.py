"""Tables of what networks and files score, and of the recipes that trained them."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.tables.committed import committed, tools
from edgevit.contract.manifest import INTERPRETER_RUNTIME
from edgevit.data.metrics import recorded_scores
from edgevit.training.recipe import RECIPES

_FORMS = {
    "float": "float",
    "ptq": "int8, post-training",
    "qat": "int8, trained",
    "coreml-fp16": "coreml, fp16 between quantized tensors",
}
_IN_HALF_PRECISION = "coreml-fp16"  # the one form that does not compute in integer arithmetic


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


def demo() -> str:
    """The digits demo: accuracy from float network to artifact, parity, size, latency on the machine that ran it."""
    rows = committed("demo")["artifacts"]
    lines = [
        "| artifact | top-1 float network | checkpoint | artifact | drop, percentage points "
        "| parity with the checkpoint | MB | latency p50, 1 thread |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
        *(_demo_row(row) for row in rows),
        "",
        "Made by `make demo`; latency is of a small shared x86 machine, not of a phone.",
    ]
    return "\n".join(lines) + "\n"


def _demo_row(row: dict[str, Any]) -> str:
    accuracy = row["accuracy"]
    stages = {stage["name"]: stage["score"] for stage in row["error_breakdown"]}
    trained = stages.get("float network", accuracy["checkpoint"])
    drop = None if accuracy["artifact"] is None else 100 * (trained - accuracy["artifact"])
    cells = (
        row["name"],
        f"{100 * trained:.1f} %",
        f"{100 * accuracy['checkpoint']:.1f} %",
        "–" if accuracy["artifact"] is None else f"{100 * accuracy['artifact']:.1f} %",
        "–" if drop is None else f"{drop:.1f}",
        _agreement(row["agreement"]),
        f"{row['size_bytes'] / 1e6:.1f}",
        f"{row['latencies'][0]['p50_ms']:.2f} ms" if row["latencies"] else "–",
    )
    return "| " + " | ".join(cells) + " |"


def _agreement(parity: dict[str, Any]) -> str:
    """Relative error and SNR, and where they were measured if not in the target's own runtime."""
    if not parity["samples"]:
        return "checked, not executed"
    snr = "bit-exact" if parity["snr_db"] is None else f"{parity['snr_db']:.0f} dB"
    place = ", interpreter" if parity["runtime"].startswith(INTERPRETER_RUNTIME) else ""
    return f"rel. error {parity['max_relative_error']:.1e}, {snr}{place}"


def int8() -> str:
    """The score of every form of each model on the same images, and how the artifacts agree."""
    result = committed("int8")
    lines = [
        "| model | form | score | drop, percentage points [95 %] | agreement with int8, trained | MB, of fp32 |",
        "|---|---|---:|---|---|---|",
    ]
    for model in result["models"]:
        lines += [_int8_row(model, row) for row in model["rows"]]
    agreements = {
        (model["model"], pair): share for model in result["models"] for pair, share in model["agreement"].items()
    }
    exact = [share for (_, pair), share in agreements.items() if _IN_HALF_PRECISION not in pair.split(", ")]
    tasks = dict.fromkeys(_int8_task(model["experiment"], model) for model in result["models"])
    lines += [
        "",
        f"{'; '.join(tasks)}; any two int8 files agree on {100 * min(agreements.values()):.1f} % of the images or "
        f"pixels, or more, those in integer arithmetic on {100 * min(exact):.2f} %; {result['cpu']}; "
        f"{tools(result['provenance']['tools'])}; made by `make int8`.",
    ]
    return "\n".join(lines) + "\n"


def _int8_task(experiment: dict[str, Any], model: dict[str, Any]) -> str:
    return f"`{experiment['data']}`, {model['images']} test images of {experiment['input_size']} pixels a side"


def _int8_row(model: dict[str, Any], row: dict[str, Any]) -> str:
    if "refused" in row:
        reason = row["refused"].rpartition("computes: ")[2]
        return f"| {model['model']} | {_FORMS.get(row['form'], row['form'])} | – | – | refused: {reason} | – |"
    drop = row["drop"]
    lost = "–" if row["form"] == "float" else f"{drop['percentage_points']:.2f} [{drop['low']:.2f}, {drop['high']:.2f}]"
    agreement = size = "–"
    if "agreement" in row:
        closeness = "equal" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
        agreement = f"{100 * row['agreement']:.2f} %, {closeness}, {100 * row['equal_outputs']:.1f} % bit-exact"
        size = f"{row['size_bytes'] / 1e6:.1f}, {row['size_ratio']:.2f}"
    form = _FORMS.get(row["form"], row["form"])
    if row["form"] == "budget":
        form = f"int8, post-training, {len(model['quantization']['budget']['kept_in_float'])} layers in float"
    metric, score = next(iter(recorded_scores(row).items()))
    return f"| {model['model']} | {form} | {100 * score:.2f} % {metric} | {lost} | {agreement} | {size} |"


def compressed() -> str:
    """The score of every compressed form of each model in each target, on the same images."""
    result = committed("compressed")
    tasks = dict.fromkeys(f"`{row['data']}`, {row['images']} test images" for row in result["rows"])
    lines = [
        "| model | form | target | score | drop, percentage points [95 %] | agreement with float | MB, of fp32 |",
        "|---|---|---|---:|---|---|---|",
        *(_compressed_row(row) for row in result["rows"]),
        "",
        f"{'; '.join(tasks)}; {result['cpu']}; {tools(result['provenance']['tools'])}; made by `make compressed`.",
    ]
    return "\n".join(lines) + "\n"


def _compressed_row(row: dict[str, Any]) -> str:
    lost = agreement = size = "–"
    if row["form"] != "float":
        lost = f"{row['drop']['percentage_points']:.2f} [{row['drop']['low']:.2f}, {row['drop']['high']:.2f}]"
        closeness = "equal" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
        agreement = f"{100 * row['agreement']:.2f} %, {closeness}"
    if "size_bytes" in row:
        size = f"{row['size_bytes'] / 1e6:.1f}, {row['size_ratio']:.2f}"
    metric, score = next(iter(row["scores"].items()))
    cells = (row["model"], row["form"], row["target"] or "–", f"{100 * score:.2f} % {metric}", lost, agreement, size)
    return "| " + " | ".join(cells) + " |"
