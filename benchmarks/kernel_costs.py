"""`python -m benchmarks.kernel_costs`: measures what the deploy passes decide by, and writes it where they read it.

Each cost is the slope of time over the length of a chain of equal operations, so that what a runtime spends around
them cancels; the median over map sizes counts. The chains run in LiteRT with XNNPACK, one thread, interleaved. The
result is results/kernel-costs.json, and rounded the table [xnnpack] of edgevit/deploy/costs.toml.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.conversion_matrix import RESULTS
from converters.tflite.converter import CONVERTER
from edgevit.deploy.cost_model import FILE
from edgevit.export.export_program import export
from edgevit.infra.files import write_json
from edgevit.infra.provenance import provenance
from edgevit.profiling.devices.host_facts import describe_host
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, image_input, logit_map

_SIZES = ((32, 56), (64, 28), (160, 14))  # channels, pixels of each side
_SHORT, _LONG = 2, 8  # operations in a chain
_ROUNDS, _RUNS = 31, 4
_TAPS = (4, 9, 25)
_GROUPED_TAPS = 49


class _Chain(nn.Module):
    """`length` operations, each on the result of the one before."""

    def __init__(self, operation: Callable[[int], nn.Module], channels: int, length: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operation(channels) for _ in range(length))

    def forward(self, x: Tensor) -> Tensor:
        for operation in self.operations:
            x = operation(x)
        return x


class _Fan(_Chain):
    """`length` operations on the same map, summed as the pieces of a kernel are."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.operations[0](x)
        for operation in self.operations[1:]:
            total = total + operation(x)
        return total


class _Halves(nn.Module):
    """Half of the channels, twice: the first half, or every other one."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        half = x[:, :: self.step] if self.step > 1 else x[:, : x.shape[1] // 2]
        return torch.cat((half, half), 1)


def main() -> None:
    """Measure every chain, write the result and the table."""
    torch.manual_seed(0)
    chains: dict[str, Callable[[int, int], _Chain]] = {
        **{f"depthwise_{taps}": partial(_Chain, _depthwise(round(taps**0.5))) for taps in (*_TAPS, _GROUPED_TAPS)},
        "pointwise": partial(_Chain, lambda channels: nn.Conv2d(channels, channels, 1)),
        "pieces_9": partial(_Fan, _depthwise(3)),
        "halves": partial(_Chain, lambda _: _Halves(1)),
        "strided_halves": partial(_Chain, lambda _: _Halves(2)),
    }
    slopes = [_slopes(chains, channels, side) for channels, side in _SIZES]
    per_element = {
        name: [slope[name] / (c * s * s) for slope, (c, s) in zip(slopes, _SIZES, strict=True)] for name in chains
    }
    macs = [slope["pointwise"] / (c * c * s * s) for slope, (c, s) in zip(slopes, _SIZES, strict=True)]
    # One more piece is one more small kernel and one more sum.
    sums = [b - a for a, b in zip(per_element["depthwise_9"], per_element["pieces_9"], strict=True)]
    picked = [2 * (b - a) for a, b in zip(per_element["halves"], per_element["strided_halves"], strict=True)]
    costs = {
        **{f"depthwise_{taps}": statistics.median(per_element[f"depthwise_{taps}"]) for taps in _TAPS},
        "grouped_tap": statistics.median(per_element[f"depthwise_{_GROUPED_TAPS}"]) / _GROUPED_TAPS,
        "mac": statistics.median(macs),
        "elementwise": statistics.median(sums),
        "strided_slice": statistics.median(picked),
    }
    result = {
        "schema": "edgevit.kernel-costs",
        "cpu": describe_host().cpu,
        "provenance": provenance(("ai-edge-litert",)),
        "sizes": _SIZES,
        "slopes_ps": slopes,
        "costs_ps": costs,
    }
    write_json(RESULTS / "kernel-costs.json", result)
    FILE.write_text(with_costs(FILE.read_text(), costs))


def with_costs(text: str, costs: dict[str, float]) -> str:
    """costs.toml with the numbers of its first table, [xnnpack], made anew: three digits are enough to decide by."""
    rounded = {name: float(f"{cost:.3g}") for name, cost in costs.items()}
    classes = ", ".join(f"{{ taps = {taps}, cost = {rounded[f'depthwise_{taps}']:g} }}" for taps in _TAPS)
    text = re.sub(r"(?m)^depthwise = .*$", f"depthwise = [{classes}]", text, count=1)
    for name in ("grouped_tap", "mac", "elementwise", "strided_slice"):
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {rounded[name]:g}", text, count=1)
    return text


def _depthwise(side: int) -> Callable[[int], nn.Module]:
    """A depthwise convolution that keeps the size: an even kernel is dilated, so that its padding is symmetric."""
    dilation = 1 if side % 2 else 2

    def build(channels: int) -> nn.Module:
        padding = dilation * (side - 1) // 2
        return nn.Conv2d(channels, channels, side, padding=padding, dilation=dilation, groups=channels)

    return build


def _slopes(chains: dict[str, Callable[[int, int], _Chain]], channels: int, side: int) -> dict[str, float]:
    """Picoseconds that one more operation adds, by chain."""
    runs = {
        (name, length): _prepared(chain(channels, length), channels, side)
        for name, chain in chains.items()
        for length in (_SHORT, _LONG)
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for turn in range(_ROUNDS):
        for key in sorted(runs, reverse=turn % 2 == 1):
            started = time.perf_counter_ns()
            for _ in range(_RUNS):
                runs[key]()
            times[key].append((time.perf_counter_ns() - started) / _RUNS)
    return {
        name: 1e3
        * statistics.median(b - a for a, b in zip(times[name, _SHORT], times[name, _LONG], strict=True))
        / (_LONG - _SHORT)
        for name in chains
    }


def _prepared(chain: nn.Module, channels: int, side: int) -> Callable[[], None]:
    """The chain in LiteRT, warmed up, its input set."""
    from ai_edge_litert.interpreter import Interpreter

    image = image_input(side)[0]
    shape = (1, channels, side, side)
    spec = ModelSpec(
        name="chain",
        task=Task.SEGMENT,
        tier=Tier.EDGE,
        build=None,
        inputs=(type(image)(image.name, shape),),
        outputs=(type(image)(logit_map(1, side)[0].name, shape),),
        preprocess=Preprocess.for_input(side),
        params=0,
        macs=0,
        paper="",
    )
    with tempfile.TemporaryDirectory() as folder:
        converted = CONVERTER.convert(export(chain.eval(), spec), CONVERTER.Options(), Path(folder))
        content = (Path(folder) / converted.entry).read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    values = np.random.default_rng(0).standard_normal(details["shape"], np.float32) * 1e-3
    interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return interpreter.invoke


if __name__ == "__main__":
    main()
