"""What operations cost on the kernels of a runtime: data, read from costs.toml, by which passes decide."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgevit.errors import unknown_name

_FILE = Path(__file__).with_name("costs.toml")


@dataclass(frozen=True, slots=True)
class Costs:
    """Picoseconds of one thread on the machine that measured them; only their ratios matter.

    depthwise: taps up to which a kernel class reaches, ascending -> cost of one output element; the last class has
    no bound (taps 0) and costs per tap. elementwise and copy: one element. mac: one multiplication and addition of a
    dense product. grouped_mac: the same in a grouped or multiplied convolution. layer_norm: whether the runtime
    takes the operation whole. softmax_any_axis: whether its softmax is as fast over axes that are not the last.
    """

    depthwise: tuple[tuple[int, float], ...]
    depthwise_tap: float
    elementwise: float
    copy: float
    mac: float
    grouped_mac: float
    layer_norm: bool
    softmax_any_axis: bool

    def depthwise_element(self, taps: int) -> float:
        """One output element of a depthwise convolution with so many taps."""
        return next((cost for limit, cost in self.depthwise if taps <= limit), self.depthwise_tap * taps)

    def splits_depthwise(self, taps: int) -> bool:
        """Whether kernels of so many taps are beyond the fast classes."""
        return bool(self.depthwise) and taps > self.depthwise[-1][0]


@cache
def read_costs(kernels: str) -> Costs:
    """The costs of a kernel library, a table of costs.toml. UsageError for a name it lacks."""
    tables = tomllib.loads(_FILE.read_text())
    if kernels not in tables:
        raise unknown_name("kernel library", kernels, tables)
    table = tables[kernels]
    classes = tuple((entry["taps"], entry["cost"]) for entry in table.pop("depthwise"))
    return Costs(depthwise=classes, **table)
