"""Parity numbers and their tolerances."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.contract.manifest import Tolerance
from edgevit.errors import ParityError
from edgevit.spec import Task
from edgevit.verification.checks import check_parity, describe_parity, measure

EXPECTED = np.array([[1.0, -2.0, 0.5], [3.0, 4.0, -8.0]], np.float32)
FP32 = Tolerance(max_relative_error=1e-5)
FP16 = Tolerance(min_snr_db=50.0)


def _measure(actual):
    return measure(np.asarray(actual, np.float32), EXPECTED, task=Task.CLASSIFY, runtime="r")


def test_equal_outputs_are_bit_exact():
    parity = _measure(EXPECTED)
    assert (parity.max_abs_error, parity.max_relative_error, parity.snr_db, parity.agreement) == (0, 0, None, 1)
    assert "bit-exact" in describe_parity(parity)
    check_parity(parity, FP32, "a")
    check_parity(parity, FP16, "a")


def test_numbers_are_of_the_worst_sample():
    parity = _measure(np.add(EXPECTED, [[0, 0, 0.2], [0, 0.4, 0]]))
    assert parity.max_abs_error == pytest.approx(0.4)
    assert parity.max_relative_error == pytest.approx(0.1)  # 0.2 of 2 in the first, 0.4 of 8 in the second
    assert parity.snr_db == pytest.approx(10 * np.log10(5.25 / 0.04), abs=1e-4)
    assert parity.samples == 2


def test_top1_agreement_counts_samples():
    assert _measure(-EXPECTED).agreement == 0.0
    assert _measure([[9, 0, 0], [0, 0, 9]]).agreement == 0.5


@pytest.mark.parametrize("bad", [np.full((2, 3), np.nan), np.array([[1, -2, np.inf], [3, 4, -8]]), EXPECTED[:1]])
def test_not_finite_or_wrong_shape_fails_every_bound(bad):
    parity = _measure(bad)
    for tolerance in (FP32, FP16):
        with pytest.raises(ParityError):
            check_parity(parity, tolerance, "a")


def test_miss_says_by_how_much_and_carries_the_numbers():
    parity = _measure(EXPECTED * 1.001)
    with pytest.raises(ParityError, match=r"max rel\. error 1\.00e-03, at most 1e-05 allowed") as caught:
        check_parity(parity, FP32, "net")
    assert caught.value.parity is parity
    assert caught.value.exit_code == 5
    check_parity(parity, FP16, "net")  # 60 dB


def test_snr_miss_is_named():
    with pytest.raises(ParityError, match=r"SNR 40\.0 dB, at least 50 dB needed"):
        check_parity(_measure(EXPECTED * 1.01), FP16, "net")


def test_mask_agreement_is_mean_iou():
    expected = np.full((1, 2, 2, 2), -1.0, np.float32)
    expected[0, 1, 0] = 1  # the upper half is class 1
    actual = expected.copy()
    actual[0, 1, 0, 0] = -2  # one of its two pixels becomes class 0
    parity = measure(actual, expected, task=Task.SEGMENT, runtime="r")
    assert parity.agreement == pytest.approx((2 / 3 + 1 / 2) / 2)
