"""Weights stored in fewer bits than they are computed in: palettized (a lookup table of 16 to 256 values) or sparse.

Int8 is not made here: such a program comes with quantized weights, the same for all targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.contract.manifest import Tolerance
from edgevit.errors import ConversionError
from edgevit.infra.optional_imports import require
from edgevit.mil.package import body, open_package, walk
from edgevit.quantization.weight_storage import INT8, MIN_VALUES, UNCOMPRESSED

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

SPARSE = "sparse"  # of a pruned network: a bit for each value, and the values that are not zero
_LEAST_ZEROS = 0.125  # share of a weight's values above which that is smaller by enough to pay
_PALETTE_BITS = {"palette4": 4, "palette6": 6, "palette8": 8}
# Least signal-to-noise ratio of the outputs. The graph is proven on the fp32 reference build; these bounds only
# refuse a package whose stored weights are not the checkpoint's. What is lost within them, accuracy has to show.
TOLERANCES = {
    "palette8": Tolerance(min_snr_db=20.0),
    "palette6": Tolerance(min_snr_db=15.0),
    "palette4": Tolerance(min_snr_db=6.0),
}
KINDS = (UNCOMPRESSED, INT8, *TOLERANCES, SPARSE)
_MAX_ROUNDS = 200  # of k-means; it stops earlier once nothing changes


def add_pass(pipeline: Any, kind: str) -> None:
    """Let a coremltools PassPipeline end with palettizing large weights or storing them sparse.

    Compressing a finished model instead would run coremltools' other passes over it again, the inexact ones too.
    """
    cto = require("coremltools.optimize.coreml", "coreml")
    if kind == SPARSE:
        name = "compression::prune_weights"
        config = cto.OpThresholdPrunerConfig(
            threshold=0.0, minimum_sparsity_percentile=_LEAST_ZEROS, weight_threshold=MIN_VALUES - 1
        )
    else:
        name, size = "compression::palettize_weights", 2 ** _PALETTE_BITS[kind]
        # Our own k-means: coremltools takes it from a version of scikit-learn that other targets cannot live with.
        config = cto.OpPalettizerConfig(
            mode="custom", lut_function=lambda weight: palette(weight, size), weight_threshold=MIN_VALUES - 1
        )
    pipeline.append_pass(name)
    pipeline.set_options(name, {"config": cto.OptimizationConfig(config)})


def require_compressed(package: Path, kind: str) -> None:
    """Raise ConversionError if no weight was large enough, or had zeros enough, to be stored as `kind`."""
    block = body(open_package(package).functions["main"])
    if not any(operation.type.startswith("constexpr_") for operation in walk(block)):
        zeros = f", {100 * _LEAST_ZEROS:g} % of them zero" if kind == SPARSE else ""
        raise ConversionError(
            f"no weight has {MIN_VALUES} values or more{zeros}: there is nothing to store as {kind}",
            fix="leave the weights option out",
        )


def palette(weight: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A lookup table and its indices: (`size` values, ascending; uint8 index of the nearest per element, flat).

    k-means in one dimension from two starts, evenly spaced values and evenly filled cells; the better result stays.
    """
    import numpy as np

    ordered = np.sort(weight.reshape(-1).astype(np.float64))
    spaced = np.linspace(ordered[0], ordered[-1], size)
    filled = ordered[((np.arange(size) + 0.5) * len(ordered) / size).astype(int)]
    found = [_settled(ordered, start).astype(weight.dtype) for start in (spaced, filled)]
    values = min(found, key=lambda centres: _error(ordered, centres.astype(np.float64)))
    nearest = np.searchsorted(_borders(values.astype(np.float64)), weight.reshape(-1).astype(np.float64))
    return values, nearest.astype(np.uint8)


def _settled(ordered: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Lloyd's iteration on sorted values: every centre becomes the mean of its cell; an empty cell stays."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_MAX_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(ordered, _borders(centres)), [len(ordered)]])
        counts = np.diff(edges)
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), centres)
        if np.abs(moved - centres).max() <= 1e-7 * np.abs(ordered[[0, -1]]).max():
            return moved
        centres = moved
    return centres


def _borders(centres: np.ndarray) -> np.ndarray:
    return (centres[1:] + centres[:-1]) / 2


def _error(ordered: np.ndarray, centres: np.ndarray) -> float:
    import numpy as np

    return float(np.square(ordered - centres[np.searchsorted(_borders(centres), ordered)]).sum())
