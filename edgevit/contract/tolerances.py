"""The bounds of parity: what each precision loses by rounding, measured on the network itself where it loses more.

e is the distance of PyTorch's own float32 outputs from the float64 ones, s the SNR of the network with all values
rounded to fp16 or bf16. A right conversion sums in another order, so it lies about e from the float64 outputs, and a
deploy pass that merges two factors a few times that; a wrong one lies far outside of both.
"""

from __future__ import annotations

from edgevit.contract.manifest import ReferenceFacts, Tolerance
from edgevit.spec import Precision

# fp32 differs by summation order only; fp16 keeps 11 bits of each value, which leaves about 60 dB after a network; bf16
# keeps 8, and 3 bits are 18 dB; in int8 some values round to the neighbouring quantization step, 1/255 of a tensor's
# range.
TOLERANCES = {
    Precision.FP32: Tolerance(max_relative_error=1e-5),
    Precision.FP16: Tolerance(min_snr_db=50.0),
    Precision.BF16: Tolerance(min_snr_db=30.0),
    Precision.INT8: Tolerance(min_snr_db=25.0),
}
LEAST_SNR_DB = {Precision.FP16: 30.0, Precision.BF16: 10.0}  # whatever the network loses by itself
MOST_FLOAT32_ERROR = 2.5e-4  # of PyTorch's float32; beyond it the outputs are noise, and a bound would bound nothing
_ROUNDINGS, _MARGIN_DB = 4.0, 3.0


def float32_bound(float32_error: float | None) -> float:
    """The relative error that float32 arithmetic may have: max(1e-5, 4 e); e is None where float64 could not run."""
    least = TOLERANCES[Precision.FP32].max_relative_error
    assert least is not None
    return least if float32_error is None else max(least, _ROUNDINGS * float32_error)


def tolerance_of(precision: Precision, float32_error: float | None, rounded_snr_db: float | None) -> Tolerance:
    """The bounds of a file in a precision.

    float32_error: e. rounded_snr_db: s in the precision's own type, None where it was not measured or is no number.
    """
    if precision is Precision.FP32:
        return Tolerance(max_relative_error=float32_bound(float32_error))
    usual = TOLERANCES[precision]
    if precision not in LEAST_SNR_DB or rounded_snr_db is None:
        return usual
    assert usual.min_snr_db is not None
    return Tolerance(min_snr_db=max(LEAST_SNR_DB[precision], min(usual.min_snr_db, rounded_snr_db - _MARGIN_DB)))


def why(tolerance: Tolerance, reference: ReferenceFacts | None) -> str:
    """Why a bound is wider than usual, "" if it is not: "because float32 itself is 6.5e-06 from float64 here"."""
    if reference is None:
        return ""
    allowed, error = tolerance.max_relative_error, reference.float32_error
    if allowed is not None and error is not None and allowed > float32_bound(None):
        return f"because float32 itself is {error:.1e} from float64 here"
    own = reference.float16_snr_db
    measured = tolerance_of(Precision.FP16, None, own)
    if own is not None and tolerance == measured != TOLERANCES[Precision.FP16]:
        return f"because the network in PyTorch keeps {own:.1f} dB in fp16 itself"
    return ""
