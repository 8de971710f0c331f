"""Bounds follow what rounding does to the network itself, and widen no further than documented."""

from __future__ import annotations

import pytest

from edgevit.contract.manifest import ReferenceFacts
from edgevit.contract.tolerances import float32_bound, tolerance_of, why
from edgevit.spec import Precision


@pytest.mark.parametrize(
    ("error", "bound"), [(None, 1e-5), (0.0, 1e-5), (2.5e-6, 1e-5), (2.6e-6, 1.04e-5), (6.5e-6, 2.6e-5)]
)
def test_float32_may_be_four_times_as_far_as_pytorch(error, bound):
    assert float32_bound(error) == pytest.approx(bound)
    assert tolerance_of(Precision.FP32, error, None).max_relative_error == pytest.approx(bound)


@pytest.mark.parametrize(
    ("precision", "own", "needed"),
    [
        (Precision.FP16, None, 50),
        (Precision.FP16, 61.0, 50),
        (Precision.FP16, 41.2, 38.2),
        (Precision.FP16, 20.0, 30),
        (Precision.BF16, 40.0, 30),
        (Precision.BF16, 28.0, 25),
        (Precision.INT8, 12.0, 25),
    ],
)
def test_rounded_forms_may_lose_what_the_network_loses_in_pytorch(precision, own, needed):
    assert tolerance_of(precision, 1e-6, own).min_snr_db == pytest.approx(needed)


def test_wider_bound_comes_with_its_reason():
    reference = ReferenceFacts("float64", 6.5e-6, 41.2)
    assert why(tolerance_of(Precision.FP32, 6.5e-6, None), reference) == (
        "because float32 itself is 6.5e-06 from float64 here"
    )
    assert why(tolerance_of(Precision.FP16, 6.5e-6, 41.2), reference) == (
        "because the network in PyTorch keeps 41.2 dB in fp16 itself"
    )
    assert why(tolerance_of(Precision.BF16, 1e-7, 28.0), ReferenceFacts("float64", 1e-7, 61.0)) == ""
    usual = ReferenceFacts("float64", 1e-7, 61.0)
    assert why(tolerance_of(Precision.FP32, 1e-7, None), usual) == ""
    assert why(tolerance_of(Precision.FP16, 1e-7, 61.0), usual) == ""
    assert why(tolerance_of(Precision.FP32, None, None), None) == ""
