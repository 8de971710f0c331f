"""What operations cost on the kernels of a runtime: data, read from costs.toml, by which passes decide."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgevit.errors import unknown_name

FILE = Path(__file__).with_name("costs.toml")
_TILE = 16  # outputs of a group that the general convolution computes at once, wanted or not


@dataclass(frozen=True, slots=True)
class Costs:
    """Picoseconds of one thread on the machine that measured them; only their ratios matter.

    depthwise: the fast kernel classes, as (taps up to which it reaches, one output element), ascending.
    grouped_tap: one weight of one group at one pixel in a general grouped convolution, for up to 16 outputs.
    mac: one multiplication and addition of a dense product. elementwise: one element of a sum.
    strided_slice: one picked number. layer_norm: whether the runtime takes the operation whole.
    softmax_any_axis: whether its softmax is as fast over axes that are not the last.
    """

    depthwise: tuple[tuple[int, float], ...]
    grouped_tap: float
    mac: float
    elementwise: float
    strided_slice: float
    layer_norm: bool
    softmax_any_axis: bool

    def depthwise_element(self, taps: int) -> float:
        """One output element of a depthwise convolution with so many taps."""
        return next((cost for limit, cost in self.depthwise if taps <= limit), self.grouped_tap * taps)

    def grouped(self, weights: int, outputs: int) -> float:
        """One group at one pixel: so many weights for each of so many outputs."""
        return self.grouped_tap * weights * -(-outputs // _TILE)


@cache
def read_costs(kernels: str) -> Costs:
    """The costs of a kernel library, a table of costs.toml. UsageError for a name it lacks."""
    tables = tomllib.loads(FILE.read_text())
    if kernels not in tables:
        raise unknown_name("kernel library", kernels, tables)
    table = tables[kernels]
    classes = tuple((entry["taps"], entry["cost"]) for entry in table.pop("depthwise"))
    return Costs(depthwise=classes, **table)
