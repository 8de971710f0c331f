"""Time per operation of a .tflite: `python -m benchmarks.litert_profile FILE ... --report FILE ...`.

LiteRT's Python interface has no profiler, but the library in its wheel has one behind its C interface, and it sees into
the XNNPACK delegate. The delegate names its kernels, not the layers; convolutions and products come in the order of the
file, which tells a depthwise 7x7 from a stem. One operation is timed in whole microseconds, so small ones are rough.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operations import (
    CONVOLUTION,
    COPY,
    ELEMENTWISE,
    PRODUCT,
    REST,
    SOFTMAX,
    Timed,
    add_up,
    convolution_kind,
    job_parser,
)
from edgevit.compat.litert import file_schema
from edgevit.errors import DeviceError
from edgevit.infra.files import write_json
from edgevit.log import captured_native_output
from edgevit.profiling.latency_statistics import median

_CPU = 1  # LiteRT's bit for the CPU accelerator
_MAX_DIMS = 8
_DELEGATE = "Delegate/"
# "   Delegate/GELU (NC)   0.000   0.029   0.029   0.031%   1.315%   0.000   10   [Delegate]:4", milliseconds
_LINE = re.compile(r"^ *(\S.*?)((?: +[\d.]+){3}) +[\d.]+% +[\d.]+% +[\d.]+ +\d+\s+\[.*\]:\d+$")
# What a convolution or product is called by the delegate, and by LiteRT where the delegate did not take it.
_LAYER_KERNELS = (
    *("Delegate/Convolution", "Delegate/Deconvolution", "Delegate/Fully Connected", "Delegate/Batch Matrix Multiply"),
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"),
)
_KINDS = (
    *((f"Delegate/{name}", CONVOLUTION) for name in ("Convolution", "Deconvolution")),
    *((f"Delegate/{name}", PRODUCT) for name in ("Fully Connected", "Batch Matrix Multiply")),
    *((name, CONVOLUTION) for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")),
    *((name, PRODUCT) for name in ("FULLY_CONNECTED", "BATCH_MATMUL")),
    *((name, SOFTMAX) for name in ("Delegate/Softmax", "SOFTMAX")),
    *(
        (f"Delegate/{name}", COPY)
        for name in ("Transpose", "Copy", "Static Reshape", "Constant Pad", "Slice", "Concat")
    ),
    *((name, COPY) for name in ("GATHER", "TRANSPOSE", "RESHAPE", "STRIDED_SLICE", "SLICE", "CONCATENATION", "PAD")),
    *((name, COPY) for name in ("SPLIT", "PACK", "UNPACK", "BROADCAST_TO", "EXPAND_DIMS", "SQUEEZE", "TILE")),
    *((f"Delegate/{name}", REST) for name in ("Mean", "Sum", "Max Pooling", "Average Pooling", "Global", "Resize")),
    ("Delegate/", ELEMENTWISE),
    *(
        (name, ELEMENTWISE)
        for name in ("ADD", "SUB", "MUL", "DIV", "GELU", "LOGISTIC", "HARD_SWISH", "RELU", "MAXIMUM")
    ),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or product of the file, in execution order."""

    kind: str
    name: str


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint, 7),
        ("has_strides", ctypes.c_bool, 1),
        ("dimensions", ctypes.c_int32 * _MAX_DIMS),
        ("strides", ctypes.c_uint32 * _MAX_DIMS),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


class Profiled:
    """A .tflite in LiteRT's C interface, its profiler at hand. Raises DeviceError naming the call that failed."""

    def __init__(self, path: Path, threads: int) -> None:
        import ai_edge_litert

        self._library = ctypes.CDLL(str(Path(ai_edge_litert.__file__).with_name("libLiteRt.so")))
        self._keep: list[Any] = []
        environment = self._new("LiteRtCreateEnvironment", ctypes.c_int(0), None)
        model = self._new("LiteRtCreateModelFromFile", environment, str(path).encode())
        options = self._new("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, ctypes.c_int(_CPU))
        self._add_options(options, "runtime_options_string", "enable_profiling = true\n")
        self._add_options(options, "xnnpack", f"num_threads = {threads}\n")
        self._model = self._new("LiteRtCreateCompiledModel", environment, model, options)
        self._profiler = self._new("LiteRtCompiledModelGetProfiler", self._model)
        signature = self._new("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._input, self._output = (self._buffer(environment, signature, end) for end in ("Input", "Output"))

    def run(self) -> None:
        """One inference on whatever the input buffer holds."""
        one = ctypes.c_size_t(1)
        ends = one, ctypes.byref(self._input), one, ctypes.byref(self._output)
        self._call("LiteRtRunCompiledModel", self._model, ctypes.c_size_t(0), *ends)

    def profile(self, runs: int) -> list[tuple[str, float]]:
        """Kernel and mean milliseconds of every operation, in execution order."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        for _ in range(runs):
            self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        summary = ctypes.c_char_p()
        self._call("LiteRtGetProfileSummary", self._profiler, self._model, ctypes.byref(summary))
        return parse_summary((summary.value or b"").decode())

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            raise DeviceError(f"{name} failed with status {status}", fix="benchmarks/peers.txt names the version")

    def _new(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _add_options(self, options: ctypes.c_void_p, identifier: str, text: str) -> None:
        payload = ctypes.create_string_buffer(text.encode())
        forget = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)  # Python frees the payload
        self._keep += [payload, forget]
        opaque = self._new("LiteRtCreateOpaqueOptions", identifier.encode(), payload, forget)
        self._call("LiteRtAddOpaqueOptions", options, opaque)

    def _buffer(self, environment: ctypes.c_void_p, signature: ctypes.c_void_p, end: str) -> ctypes.c_void_p:
        first = ctypes.c_size_t(0)
        tensor = self._new(f"LiteRtGetSignature{end}TensorByIndex", signature, first)
        kind = _TensorType()
        self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        needs = self._new(f"LiteRtGetCompiledModel{end}BufferRequirements", self._model, first, first)
        return self._new("LiteRtCreateManagedTensorBufferFromRequirements", environment, ctypes.byref(kind), needs)


def parse_summary(summary: str) -> list[tuple[str, float]]:
    """Kernel and mean milliseconds per line of the part in run order; the delegate's begin with `_DELEGATE`."""
    _, _, rest = summary.partition("Run Order")
    ordered = rest.partition("Top by Computation Time")[0]
    matches = (_LINE.match(line) for line in ordered.splitlines())
    return [(match[1], float(match[2].split()[2])) for match in matches if match]


def read_layers(path: Path) -> list[Layer]:
    """Convolutions and products of the file's main graph, in its order."""
    schema = file_schema()
    model = schema.Model.GetRootAs(path.read_bytes())
    graph = model.Subgraphs(0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    layers = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        name = names[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
        shapes = [tuple(graph.Tensors(i).ShapeAsNumpy()) for i in operator.InputsAsNumpy()[:2] if i >= 0]
        text = f"{name} " + ", ".join("x".join(map(str, shape)) for shape in shapes)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            height, width = (int(side) for side in shapes[1][1:3])  # (O, kH, kW, I)
            layers.append(Layer(convolution_kind((height, width), depthwise=name != "CONV_2D"), text))
        elif name == "TRANSPOSE_CONV":
            layers.append(Layer(CONVOLUTION, text))
        elif name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
            layers.append(Layer(PRODUCT, text))
    return layers


def assign_kinds(kernels: Sequence[str], layers: Sequence[Layer]) -> list[Layer]:
    """The kind of every kernel; the n-th kernel that belongs to a layer is the n-th layer's if all of them match up."""
    belonging = [kernel.startswith(_LAYER_KERNELS) for kernel in kernels]
    known = iter(layers) if sum(belonging) == len(layers) else None
    return [
        next(known) if belongs and known else Layer(_kind(kernel), kernel.removeprefix(_DELEGATE))
        for kernel, belongs in zip(kernels, belonging, strict=True)
    ]


def _kind(kernel: str) -> str:
    return next((kind for start, kind in _KINDS if kernel.startswith(start)), REST)


def profile_files(files: Sequence[Path], *, threads: int, rounds: int, runs: int) -> list[dict[str, Any]]:
    """Times per kind of each file. Every round takes `runs` of each with the profiler, and as many without, in turn."""
    models = [Profiled(path, threads) for path in files]
    wholes: list[list[float]] = [[] for _ in files]
    profiles: list[list[list[tuple[str, float]]]] = [[] for _ in files]
    for _ in range(rounds):
        for model, whole, profile in zip(models, wholes, profiles, strict=True):
            model.run()
            samples = []
            for _ in range(runs):
                started = time.perf_counter_ns()
                model.run()
                samples.append((time.perf_counter_ns() - started) / 1e6)
            whole.append(median(samples))
            profile.append(model.profile(runs))
    results = []
    for path, whole, profile in zip(files, wholes, profiles, strict=True):
        kernels = [kernel for kernel, _ in profile[0]]
        times = np.median([[ms for _, ms in one] for one in profile], axis=0)  # (operations,)
        kinds = assign_kinds(kernels, read_layers(path))
        groups: dict[Layer, list[float]] = {}
        for layer, ms in zip(kinds, times.tolist(), strict=True):
            groups.setdefault(layer, []).append(ms)
        timed = [Timed(layer.kind, layer.name, len(own), sum(own) / len(own)) for layer, own in groups.items()]
        results.append(add_up(timed, median(whole), "LiteRT's profiler") | {"outside": _outside(kernels)})
    return results


def _outside(kernels: Sequence[str]) -> dict[str, int]:
    """Operations that no delegate took, with their counts."""
    return {name: kernels.count(name) for name in sorted(set(kernels)) if not name.startswith(_DELEGATE)}


def main() -> None:
    """Write {"operations": [...]} in the order of the files."""
    job = job_parser(__doc__.splitlines()[0]).parse_args()
    with captured_native_output():
        results = profile_files(job.files, threads=job.threads, rounds=job.rounds, runs=job.runs)
    write_json(job.report, {"operations": results})


if __name__ == "__main__":
    main()
