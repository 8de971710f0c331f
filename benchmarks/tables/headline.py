"""The five numbers that README opens with, each beside what limits it, and which peers are still faster."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.committed import committed, interval


def headline() -> str:
    """What was measured, the number, and what it does not show."""
    rows = (_parity(), _latency(), _int8_latency(), _int8_accuracy(), _interpreter())
    lines = ["| | measured | limits |", "|---|---|---|", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def limits() -> str:
    """What README must say too: peers that are faster, thresholds that were missed, hardware that was not used."""
    lines = [f"- **Still faster than edgevit:** {'; '.join(_faster_peers())} (float32, x86, 1 thread)."]
    lines += [f"- **Thresholds not met:** {'; '.join(_missed_thresholds())}."]
    hardware = "a phone, an Android or iOS app, a Neural Engine or another NPU"
    if committed("server")["gpu"] is None:
        hardware += ", or a GPU"
    lines.append(
        f"- **No result yet from:** {hardware}. All latencies are of shared x86 machines. Core ML packages were "
        "evaluated by edgevit's own interpreter, never by Core ML."
    )
    lines.append(
        "- **Accuracy** is of networks trained here on small bundled tasks, not of ImageNet; latency and parity at "
        "published sizes use seeded random weights."
    )
    return "\n".join(lines) + "\n"


def _parity() -> tuple[str, str, str]:
    rows = [row for row in committed("conversion")["rows"] if row["precision"] == "fp32"]
    done = [row for row in rows if not row["error"]]
    models, targets = ({row[key] for row in rows} for key in ("model", "target"))
    worst = max(row["parity"]["max_relative_error"] for row in done)
    return (
        "fp32 files against their checkpoint",
        f"largest relative error **{worst:.1e}** in {len(done)} of {len(rows)} files: {len(models)} models, "
        f"{len(targets)} targets",
        "ExecuTorch and TFLite in their own runtimes on x86, Core ML in our interpreter",
    )


def _latency() -> tuple[str, str, str]:
    rows = {(row["ours"], row["against"]): row for row in _thresholds("compare-runtimes", "van_b0")}
    executorch, onnx2tf = (
        rows["edgevit_executorch", "executorch"],
        rows["edgevit_tflite", "onnx2tf"],
    )
    return (
        "latency of `van_b0`, fp32, against baseline conversions",
        f"**{interval(executorch)}** of plain ExecuTorch, {interval(onnx2tf)} of onnx2tf",
        "the gain is VAN's large depthwise kernels on XNNPACK; `vt_resnet18` gains "
        f"{_gain('compare-runtimes', 'vt_resnet18', 'edgevit_executorch', 'executorch')} %",
    )


def _int8_latency() -> tuple[str, str, str]:
    found = []
    for name in ("compare-runtimes-int8", "compare-runtimes-int8-intel"):
        rows = {(row["ours"], row["against"]): row for row in _thresholds(name, "van_b0")}
        found.append((committed(name)["cpu"], rows["edgevit_executorch_int8", "edgevit_executorch"]))
    shown = ", ".join(f"{interval(row)} on {_short(cpu)}" for cpu, row in found)
    return ("latency of `van_b0`, int8 over our own fp32, ExecuTorch", f"**{shown}**", "depends on the int8 kernels")


def _int8_accuracy() -> tuple[str, str, str]:
    models = committed("int8")["models"]
    rows = [(model, row) for model in models for row in model["rows"] if row["form"] in ("executorch", "tflite")]
    model, worst = max(rows, key=lambda one: one[1]["drop"]["percentage_points"])
    drop = worst["drop"]
    ratios = [row["size_ratio"] for _, row in rows]
    return (
        "accuracy lost in int8, trained (QAT)",
        f"at most **{drop['percentage_points']:.2f} percentage points** [{drop['low']:.2f}, {drop['high']:.2f}] over "
        f"{len(models)} models, at {min(ratios):.2f} to {max(ratios):.2f} of the fp32 size",
        f"small tasks that ship with edgevit; the largest drop is of `{model['model']}`",
    )


def _interpreter() -> tuple[str, str, str]:
    suite, damage = committed("coreml-conformance"), committed("coreml-mutations")
    return (
        "Core ML without a Mac",
        f"**{suite['passed']} of {suite['counted']}** of coremltools' own op tests pass; {damage['caught']} of "
        f"{damage['must_catch']} damaged packages are caught",
        "proves what a package means, not what Apple's hardware computes",
    )


def _faster_peers() -> list[str]:
    """ "ONNX Runtime on van_b0 (13.84 ms against 15.14 ms)" for every candidate ahead of our fastest artifact."""
    found = []
    for model in committed("compare-runtimes")["models"]:
        timed = [row for row in model["candidates"] if not row["error"] and not row["wrong"]]
        ours = min(row["median_ms"] for row in timed if row["candidate"].startswith("edgevit_"))
        found += [
            f"{row['title']} on `{model['model']}` ({row['median_ms']:.2f} ms against {ours:.2f} ms)"
            for row in timed
            if row["median_ms"] < ours
        ]
    return found


def _missed_thresholds() -> list[str]:
    found = []
    for name in ("compare-runtimes", "compare-runtimes-int8", "compare-runtimes-int8-intel"):
        result = committed(name)
        found += [
            f"`{row['ours']}` over `{row['against']}` on `{row['model']}`, {_short(result['cpu'])}: "
            f"{row['ratio']:.3f}, wanted {row['limit']:.2f}"
            for row in result["thresholds"]
            if not row["met"]
        ]
    return found


def _thresholds(name: str, model: str) -> list[dict[str, Any]]:
    return [row for row in committed(name)["thresholds"] if row["model"] == model]


def _gain(name: str, model: str, ours: str, against: str) -> str:
    """Per cent of the other's time that ours saves."""
    row = next(row for row in _thresholds(name, model) if (row["ours"], row["against"]) == (ours, against))
    return f"{100 * (1 - row['ratio']):.0f}"


def _short(cpu: str) -> str:
    """ "Intel" of "Intel(R) Xeon(R) Processor"."""
    return cpu.partition("(")[0].strip()
