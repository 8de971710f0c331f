"""Time per operation of an ONNX file: `python -m benchmarks.onnxruntime_profile FILE ... --report FILE ...`.

ONNX Runtime has a profiler of its own. It sees the graph after its optimizer: norms, activations and residual sums that
it fused into a convolution are part of that convolution's time.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import onnxruntime_session
from benchmarks.operations import COPY, ELEMENTWISE, PRODUCT, REST, SOFTMAX, Timed, add_up, convolution_kind, job_parser
from edgevit.infra.files import write_json
from edgevit.profiling.latency_statistics import median

_KINDS = (
    (PRODUCT, ("Gemm", "MatMul", "FusedMatMul", "FusedGemm")),
    (SOFTMAX, ("Softmax",)),
    (COPY, ("Transpose", "Reshape", "Concat", "Slice", "Split", "Gather", "Pad", "Expand", "Unsqueeze", "Squeeze")),
    (COPY, ("ReorderInput", "ReorderOutput", "DepthToSpace", "SpaceToDepth")),
    (REST, ("ReduceMean", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Upsample")),
)
_EVENT = "_kernel_time"  # what an operation's name ends with


def operation_kind(name: str, shapes: Sequence[Sequence[int]]) -> str:
    """The kind of an operation; shapes are of its inputs, the weight (O, I / groups, kH, kW) second."""
    if "Conv" in name and len(shapes) > 1 and len(shapes[1]) == 4:
        outputs, inputs, height, width = shapes[1]
        return convolution_kind((height, width), depthwise=inputs == 1 and outputs > 1)
    return next((kind for kind, names in _KINDS if name in names), ELEMENTWISE)


def read_events(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """(kind, description) of each group of equal operations -> milliseconds, the median of each operation's runs."""
    runs: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_EVENT):
            continue
        facts = event["args"]
        shapes = [next(iter(tensor.values())) for tensor in facts["input_type_shape"]]
        text = f"{facts['op_name']} " + ", ".join("x".join(map(str, shape)) for shape in shapes[:2])
        key = (event["name"], operation_kind(facts["op_name"], shapes), text)
        runs.setdefault(key, []).append(event["dur"] / 1e3)  # microseconds
    groups: dict[tuple[str, str], list[float]] = {}
    for (_, kind, text), own in runs.items():
        groups.setdefault((kind, text), []).append(median(own))
    return groups


def profile_file(path: Path, *, threads: int, rounds: int, runs: int) -> dict[str, Any]:
    """Times per kind of one file; the whole network is timed without the profiler."""
    plain = onnxruntime_session(path, threads)
    image = plain.get_inputs()[0]
    feed = {image.name: np.random.default_rng(0).standard_normal(image.shape, np.float32)}
    samples = []
    for _ in range(rounds * runs):
        started = time.perf_counter_ns()
        plain.run(None, feed)
        samples.append((time.perf_counter_ns() - started) / 1e6)
    with tempfile.TemporaryDirectory() as folder:
        profiled = onnxruntime_session(path, threads, profile=Path(folder, "profile"))
        for _ in range(rounds * runs):
            profiled.run(None, feed)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    timed = [Timed(kind, text, len(own), sum(own) / len(own)) for (kind, text), own in read_events(events).items()]
    return add_up(timed, median(samples), "ONNX Runtime's profiler") | {"outside": {}}


def main() -> None:
    """Write {"operations": [...]} in the order of the files."""
    job = job_parser(__doc__.splitlines()[0]).parse_args()
    options = {"threads": job.threads, "rounds": job.rounds, "runs": job.runs}
    write_json(job.report, {"operations": [profile_file(path, **options) for path in job.files]})


if __name__ == "__main__":
    main()
