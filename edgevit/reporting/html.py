"""report.html: one file that opens offline, from disk, in light and dark, and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from typing import Any

from edgevit.infra.optional_imports import require
from edgevit.reporting.figures import Figure, figures
from edgevit.reporting.model import ReportData
from edgevit.reporting.tables import all_tables, device_name, profile_runs, size, summary, unexecuted

# One sentence per number of the tables: what it is, and which direction is good.
EXPLAINERS = (
    ("Latency p50, p90, p99", "Time of one warm inference, input tensor in to output tensor out, without image "
     "decoding: half, 90 % and 99 % of the runs were at most this long. p50 is the headline. Lower is better."),
    ("First", "The first inference after loading. Runtimes allocate and compile lazily, so an app's first prediction "
     "takes this long unless it warms up in the background."),
    ("Load", "Opening the artifact until it is ready for the first inference."),
    ("Model memory", "Peak resident memory of the process above what the runtime's own libraries take once imported."),
    ("Float network, checkpoint", "The network as trained, and the one that was converted. For an int8 artifact the "
     "checkpoint is its int8 network, so that the two differ."),
    ("Drop", "Accuracy of the float network minus that of the artifact on the same labelled samples, in "
     "percentage points. Positive means that quantizing and converting lost accuracy."),
    ("Rel. error", "Largest difference between an output of artifact and checkpoint, relative to the largest output "
     "value, of the worst input. fp32 formats reach about 1e-6, fp16 about 1e-3. Lower is better."),
    ("SNR", "Energy of the checkpoint's output over the energy of the difference, in decibels, of the worst input. "
     "Every 20 dB is one decimal digit that agrees. Higher is better; there is none when the outputs are identical."),
    ("Cosine", "Angle between both outputs as vectors: 1 is the same direction."),
    ("Same prediction", "Share of inputs with the same top-1 class, or the mean overlap (IoU) of the two masks."),
    ("Local, accumulated SNR", "A layer's output against the reference operation's output on the same inputs; against "
     "the reference network's own activation, errors of earlier layers included."),
    ("LSB mismatch", "Share of a quantized layer's values that differ by at least one quantization step, locally."),
    ("Delegated", "Operations that the target's fast back end took, of all in the lowered graph. The rest runs in "
     "plain kernels and is listed by name below."),
    ("Transposes", "Layout changes in the model file. Each moves a whole tensor without computing anything."),
    ("Interval", "Bootstrap interval of the ratio. If it contains 1, neither is faster."),
)  # fmt: skip


def html(data: ReportData) -> str:
    """The page, scripts and style inlined. Its content security policy runs these very scripts and loads nothing."""
    import jinja2

    plotly = require("plotly.offline", "report")
    shown = figures(data)
    scripts = (_newlines(plotly.get_plotlyjs()), _text("report.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size, "flatten": flatten, "shape": _shape}
    return environment.from_string(_text("report.html.j2")).render(
        data=data,
        summary=summary(data),
        measured=all_tables(data)[1:],
        unexecuted=unexecuted(data),
        figures=shown,
        figures_json=embed_json([_drawn(figure) for figure in shown]),
        machines=_machines(data),
        explainers=EXPLAINERS,
        style=_text("report.css"),
        scripts=scripts,
        script_policy=" ".join(_script_hash(script) for script in scripts),
    )


def embed_json(value: object) -> str:
    """JSON that is safe inside <script>: no character that HTML could take for markup is left in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as ("tools.torch", "2.9.0") pairs for a two-column list; null is "not known", empty "none"."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        yield prefix, ", ".join(str(item) for item in value) or "none"
    elif value is None:
        yield prefix, "not known"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield prefix, f"{value:,}"
    else:
        yield prefix, str(value or "none")


def _machines(data: ReportData) -> list[tuple[str, dict[str, Any]]]:
    """Each machine and runtime that gave a latency, once."""
    found: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
    for _, run in profile_runs(data.artifacts):
        facts = {**run.device, "runtime": run.runtime, "accelerator": run.accelerator, "harness": run.harness}
        found.setdefault(tuple(flatten(facts)), (f"{device_name(run)}, {run.runtime}", facts))
    return list(found.values())


def _drawn(figure: Figure) -> dict[str, Any]:
    return {key: value for key, value in asdict(figure).items() if key in ("name", "data", "layout")}


def _shape(tensor: dict[str, Any]) -> str:
    return f"{tensor['dtype']} ({', '.join(str(axis) for axis in tensor['shape'])}) {tensor['layout']}"


def _script_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _text(name: str) -> str:
    return _newlines(resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8"))


def _newlines(text: str) -> str:
    """LF only, as HTML parsers read it: the policy's hashes are of the text that the browser sees."""
    return text.replace("\r\n", "\n")
