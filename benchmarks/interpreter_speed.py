"""`python -m benchmarks.interpreter_speed`: VAN-B0 at 224 in the interpreter against eager PyTorch.

Both run on one thread, in turn, many rounds, so that a busy machine slows both. The result is
results/interpreter-speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from converters.coreml.converter import CONVERTER, CoreMLOptions
from edgevit.checkpoints.model_source import spec_of
from edgevit.deploy.pass_manager import deploy
from edgevit.export.export_program import export
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.mil import Interpreter
from edgevit.models import create_model
from edgevit.spec import Precision

RESULT = Path(__file__).parent / "results" / "interpreter-speed.json"
MAX_RATIO = 3.0
_WARMUP_ROUNDS = 3


def main() -> None:
    """Measure, write the result, print the ratio; exit 1 if it is above MAX_RATIO."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="van_b0")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    result = measure(arguments.model, arguments.rounds)
    write_json(RESULT, result)
    print(
        f"{result['model']}: {result['ratio']} times eager PyTorch (limit {MAX_RATIO}), medians of {result['rounds']}"
    )
    sys.exit(result["ratio"] > MAX_RATIO)


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Raw samples in nanoseconds of both, and the ratio of their medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = create_model(name).eval()
    spec = spec_of(network)
    image = torch.randn(spec.inputs[0].shape)
    with tempfile.TemporaryDirectory() as folder:
        module, _ = deploy(network, spec, kernels=CONVERTER.kernels)
        program = export(module, spec, precision=Precision.FP32)
        CONVERTER.convert(program, CoreMLOptions(), Path(folder))
        started = time.perf_counter_ns()
        interpreter = Interpreter(Path(folder) / "model.mlpackage")
        load_ns = time.perf_counter_ns() - started
        array = {spec.inputs[0].name: image.numpy()}
        with torch.inference_mode():
            samples = _interleaved(
                {"interpreter": lambda: interpreter.predict(array), "eager": lambda: network(image)}, rounds
            )
    medians = {key: statistics.median(values) for key, values in samples.items()}
    return {
        "schema": "edgevit.interpreter-speed",
        "model": name,
        "input_shape": list(image.shape),
        "mode": "fp32",
        "threads": 1,
        "rounds": rounds,
        "load_ns": load_ns,
        "samples_ns": samples,
        "median_ns": medians,
        "ratio": round(medians["interpreter"] / medians["eager"], 3),
        "provenance": provenance(("coremltools",)),
    }


def _interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[int]]:
    samples: dict[str, list[int]] = {name: [] for name in calls}
    for index in range(_WARMUP_ROUNDS + rounds):
        for name, call in calls.items():
            started = time.perf_counter_ns()
            call()
            if index >= _WARMUP_ROUNDS:
                samples[name].append(time.perf_counter_ns() - started)
    return samples


if __name__ == "__main__":
    main()
