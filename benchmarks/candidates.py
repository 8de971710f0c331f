"""What is compared: `python -m benchmarks.candidates NAME FOLDER --report FILE ...` opens one, checks and times it.

A setup folder holds setup.json (model, classes), weights.pt, input.npy, expected.npy (the output of the baseline
network in eager PyTorch) and a folder per conversion. Some candidates run in the peers' environment, so every class
imports only what it needs.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.baseline_conversions import INPUT, baseline_network
from edgevit.compat import executorch
from edgevit.errors import DeviceError
from edgevit.infra.files import write_json
from edgevit.infra.optional_imports import version
from edgevit.log import captured_native_output
from edgevit.profiling.devices.host_facts import load_average
from edgevit.profiling.runner import Clock, Runs, take_samples


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line of the rules. file is relative to its conversion's folder; no conversion means the network itself."""

    title: str
    conversion: str | None
    file: str
    runtime: str

    @property
    def ours(self) -> bool:
        return self.conversion in OURS


FLOAT, INT8 = "edgevit", "edgevit_int8"
OURS = (FLOAT, INT8)  # conversions that are `edgevit convert`; all others are baselines
CANDIDATES = {
    "edgevit_executorch": Candidate("edgevit, ExecuTorch", FLOAT, "*-executorch/model.pte", "executorch"),
    "edgevit_tflite": Candidate("edgevit, TFLite", FLOAT, "*-tflite/model.tflite", "litert"),
    "edgevit_executorch_int8": Candidate("edgevit, ExecuTorch int8", INT8, "*-executorch/model.pte", "executorch"),
    "edgevit_tflite_int8": Candidate("edgevit, TFLite int8", INT8, "*-tflite/model.tflite", "litert"),
    "executorch": Candidate("ExecuTorch, XNNPACK", "executorch", "model.pte", "executorch"),
    "onnx2tf": Candidate("TFLite by onnx2tf", "onnx2tf", "model.tflite", "litert"),
    "litert_torch": Candidate("TFLite by litert-torch", "litert_torch", "model.tflite", "litert"),
    "onnxruntime": Candidate("ONNX Runtime", "onnx", "model.onnx", "onnxruntime"),
    "openvino": Candidate("OpenVINO", "onnx", "model.onnx", "openvino"),
    "torch_compile": Candidate("PyTorch, compiled", None, "", "torch_compile"),
    "torch_eager": Candidate("PyTorch, eager", None, "", "torch"),
}
PEER_RUNTIMES = frozenset({"onnxruntime", "openvino"})  # not in the main environment


class Engine(Protocol):
    """A candidate, loaded. `run` is one call as an application makes it: array in, array out."""

    runtime: str

    def layout(self, image: np.ndarray) -> np.ndarray:
        """The image (1, 3, H, W) as the file declares its input."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """One inference; the input is copied in and the output out, or viewed where the runtime shares memory."""


class _ExecuTorch:
    def __init__(self, path: Path, threads: int) -> None:
        import torch

        executorch.set_threads(threads)
        self.runtime = f"executorch {version('executorch')}"
        self._module, self._torch = executorch.load_module(path), torch

    def layout(self, image: np.ndarray) -> np.ndarray:
        return image

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._module.forward((self._torch.from_numpy(inputs[INPUT]),), clone_outputs=True)[0].numpy()


class _LiteRT:
    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.runtime = f"litert {version('ai-edge-litert')}"
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def layout(self, image: np.ndarray) -> np.ndarray:
        if tuple(self._input["shape"]) == image.shape:
            return image
        return np.ascontiguousarray(image.transpose(0, 2, 3, 1))  # (1, H, W, 3)

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        self._interpreter.set_tensor(self._input["index"], inputs[INPUT])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


class _OnnxRuntime:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._session = onnxruntime_session(path, threads)

    def layout(self, image: np.ndarray) -> np.ndarray:
        return image

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._session.run(None, {INPUT: inputs[INPUT]})[0]


def onnxruntime_session(path: Path, threads: int, profile: Path | None = None) -> Any:
    """A session on the CPU, one operation after the other; `profile` is what the profiler's files start with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _OpenVino:
    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.runtime = f"openvino {version('openvino')}"
        self._request = openvino.Core().compile_model(str(path), "CPU", hints).create_infer_request()

    def layout(self, image: np.ndarray) -> np.ndarray:
        return image

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._request.infer({INPUT: inputs[INPUT]})[0].copy()


class _Torch:
    def __init__(self, folder: Path, threads: int, *, compiled: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        network = baseline_network(folder)
        self.runtime = f"torch {torch.__version__}"
        self._network, self._torch = torch.compile(network) if compiled else network, torch

    def layout(self, image: np.ndarray) -> np.ndarray:
        return image

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._network(self._torch.from_numpy(inputs[INPUT])).numpy()


def candidate_file(name: str, folder: Path) -> Path:
    """The file of a converted candidate in a setup folder. Raises DeviceError if there is none."""
    place, pattern = folder / str(CANDIDATES[name].conversion), CANDIDATES[name].file
    found = sorted(place.glob(pattern))
    if len(found) != 1:
        raise DeviceError(f"{place} has {len(found)} files {pattern}", fix="convert it")
    return found[0]


def open_candidate(name: str, folder: Path, threads: int) -> Engine:
    """Load a candidate of a setup folder with `threads` CPU threads. Raises DeviceError if it was not converted."""
    runtime = CANDIDATES[name].runtime
    if CANDIDATES[name].conversion is None:
        return _Torch(folder, threads, compiled=runtime == "torch_compile")
    engines: dict[str, Callable[[Path, int], Engine]] = {
        "executorch": _ExecuTorch,
        "litert": _LiteRT,
        "onnxruntime": _OnnxRuntime,
        "openvino": _OpenVino,
    }
    return engines[runtime](candidate_file(name, folder), threads)


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the largest wanted value; infinite for another shape or values that are not finite.

    A feature map (1, H, W, C) is compared as (1, C, H, W).
    """
    if got.ndim == 4 and got.shape != wanted.shape:
        got = got.transpose(0, 3, 1, 2)
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def add_timing(parser: argparse.ArgumentParser) -> None:
    """The options of one process: those that `comparison.Timing.flags` writes."""
    for option in ("threads", "warmup-runs", "runs"):
        parser.add_argument(f"--{option}", type=int, required=True)
    for option in ("warmup-s", "min-s", "max-s"):
        parser.add_argument(f"--{option}", type=float, required=True)


def timed_runs(session: Runs, inputs: Mapping[str, np.ndarray], job: argparse.Namespace, clock: Clock) -> list[int]:
    """Nanoseconds of each timed run after the warm-up, as long as the options of `add_timing` say."""
    take_samples(session, inputs, job.warmup_runs, job.warmup_s, job.max_s, clock)
    return take_samples(session, inputs, job.runs, job.min_s, job.max_s, clock)


def time_candidate(name: str, folder: Path, job: argparse.Namespace) -> dict[str, Any]:
    """Load, first inference, warm-up, timed runs, all in nanoseconds, and how far the output is from the network's."""
    image, wanted = np.load(folder / "input.npy"), np.load(folder / "expected.npy")
    load_before, clock = load_average(), time.perf_counter_ns
    with captured_native_output():
        started = clock()
        engine = open_candidate(name, folder, job.threads)
        load_ns = clock() - started
        inputs = {INPUT: engine.layout(image)}
        started = clock()
        output = engine.run(inputs)
        first_ns = clock() - started
        error = relative_error(output, wanted)
        gc.collect()
        gc.disable()  # its pauses are the harness's
        samples = timed_runs(engine, inputs, job, clock)
    return {
        "candidate": name,
        "runtime": engine.runtime,
        "load_ns": load_ns,
        "first_ns": first_ns,
        "relative_error": error if np.isfinite(error) else None,
        "load_average": load_before,
        "samples_ns": samples,
    }


def main() -> None:
    """Write the report; a failure is a trace on stderr, whose last line is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CANDIDATES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report", type=Path, required=True)
    add_timing(parser)
    job = parser.parse_args()
    write_json(job.report, time_candidate(job.name, job.folder, job))


if __name__ == "__main__":
    main()
