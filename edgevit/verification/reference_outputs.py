"""What a checkpoint computes, exactly enough to judge files by: in float64, with what rounding alone makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgevit.contract.manifest import ReferenceFacts, Tolerance
from edgevit.contract.tolerances import MOST_FLOAT32_ERROR, TOLERANCES, float32_bound, tolerance_of
from edgevit.errors import ParityError
from edgevit.log import logger
from edgevit.quantization.weight_storage import LARGEST_HALF
from edgevit.spec import Precision
from edgevit.verification.parity import distance, worst

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, fx

    from edgevit.checkpoints.model_source import LoadedModel
    from edgevit.graph.arithmetic import OutOfRange
    from edgevit.quantization.loading import QuantizedModel

_LARGEST = 1e30  # float32 ends at 3.4e38, and sums of squares of outputs must not


@dataclass(frozen=True, slots=True)
class ReferenceOutputs:
    """Outputs (N, ...) that files are compared with, how they were computed, and how far a file may be from them.

    out_of_range: where a value leaves the range of fp16, None if none does or that was not looked for.
    """

    outputs: np.ndarray
    facts: ReferenceFacts
    tolerance: Tolerance
    out_of_range: OutOfRange | None = None


def integer_reference(source: QuantizedModel, tensors: np.ndarray) -> ReferenceOutputs:
    """Of an int8 network, in integer arithmetic. tensors: (N, 3, H, W), run one by one."""
    outputs = np.concatenate([source.run(tensor[None]) for tensor in tensors])
    return ReferenceOutputs(outputs, ReferenceFacts("integer", None, None), TOLERANCES[Precision.INT8])


def float_reference(
    source: LoadedModel, captured: fx.GraphModule, tensors: np.ndarray, precision: Precision = Precision.FP32
) -> ReferenceOutputs:
    """Of a float network, in float64; in float32 where PyTorch cannot run it in float64, which is said once.

    captured: its graph, for one image. tensors: (N, 3, H, W), run one by one. Raises ParityError for outputs that are
    not finite, too large to compare, or noise, and for a graph that computes something else than the network.
    """
    import torch

    from edgevit.graph.arithmetic import CANNOT_RUN, run_in_float64, run_rounded

    name, single = source.spec.name, _on_one_thread(source, tensors)
    _require_numbers(name, single)
    if len(single) > 1 and (single == single[:1]).all():
        logger.warning("WARNING   %s gives the same outputs for every sample image", name)
    images = [torch.from_numpy(tensor[None]) for tensor in tensors]
    try:
        exact = np.concatenate([run_in_float64(captured, image).numpy() for image in images])
    except CANNOT_RUN as refused:
        reason = str(refused).strip().partition("\n")[0]
        logger.warning("WARNING   %s is compared in float32, because float64 failed: %s", name, reason)
        return ReferenceOutputs(single, ReferenceFacts("float32", None, None), tolerance_of(precision, None, None))
    _require_numbers(name, exact)
    error, captured_error = (_relative_error(outputs, exact) for outputs in (single, _in_float32(captured, images)))
    if not error <= float32_bound(captured_error):
        raise ParityError(
            f"the captured graph of {name} does not compute what the network computes: max rel. error {error:.2e}, at "
            f"most {float32_bound(captured_error):.2g} allowed",
            fix="write it without code that is another one while it is exported, and report the model",
        )
    if not error <= MOST_FLOAT32_ERROR:
        raise ParityError(
            f"the outputs of {name} are noise: float32 in PyTorch is {error:.1e} from float64 (at most "
            f"{MOST_FLOAT32_ERROR:.1e} can be judged)",
            fix="look for layers that subtract large numbers or divide by small ones; `edgevit debug` ranks layers",
        )
    half = [run_rounded(captured, torch.float16, image) for image in images]
    snr = _snr_db(np.concatenate([one.output.numpy() for one in half]), exact)
    own = snr
    if precision is Precision.BF16:
        rounded = [run_rounded(captured, torch.bfloat16, image).output.numpy() for image in images]
        own = _snr_db(np.concatenate(rounded), exact)
    return ReferenceOutputs(
        exact.astype(np.float32),
        ReferenceFacts("float64", error, snr),
        tolerance_of(precision, error, own),
        next((one.out_of_range for one in half if one.out_of_range is not None), None),
    )


def warn_of_range(name: str, found: OutOfRange | None) -> None:
    """The log line for a network whose values do not fit into fp16, in which phones compute."""
    if found is not None:
        logger.warning(
            "WARNING   %s: values of %s reach %.2g, fp16 ends at %d: accelerators of phones, which compute in fp16, "
            "will give infinity there; normalize before it, or ship int8",
            name,
            found.place,
            found.largest,
            LARGEST_HALF,
        )


def _in_float32(captured: fx.GraphModule, images: Sequence[Tensor]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.concatenate([captured(image).numpy() for image in images])


def _relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Of the worst image."""
    return worst([distance(one, other) for one, other in zip(actual, expected, strict=True)]).max_relative_error


def _on_one_thread(source: LoadedModel, tensors: np.ndarray) -> np.ndarray:
    """Eager outputs in float32, summed in one order whatever the machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return np.concatenate([source.run(np.ascontiguousarray(tensor[None])) for tensor in tensors])
    finally:
        torch.set_num_threads(threads)


def _require_numbers(name: str, outputs: np.ndarray) -> None:
    """Raise ParityError for outputs that nothing can be compared with."""
    bad = ~np.isfinite(outputs)
    if bad.any():
        what = "not-a-number" if np.isnan(outputs).any() else "infinite"
        raise ParityError(
            f"{name} gives {what} values, {bad.sum()} of {bad.size}, for the sample images",
            fix="mend the checkpoint: train at a lower rate, or look for a division by zero or an overflow",
        )
    largest = float(np.abs(outputs).max(initial=0))
    if largest >= _LARGEST:
        raise ParityError(
            f"{name} gives outputs of {largest:.0e} for the sample images", fix="mend the checkpoint: it has diverged"
        )


def _snr_db(actual: np.ndarray, expected: np.ndarray) -> float | None:
    """Of the worst image; None where they are equal or values are not finite."""
    found = worst([distance(one, other) for one, other in zip(actual, expected, strict=True)])
    return found.snr_db if np.isfinite(actual).all() else None
