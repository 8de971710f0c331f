"""The tolerance of each precision, unless a converter states bounds of its own."""

from __future__ import annotations

from edgevit.contract.manifest import Tolerance
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
