import math

import numpy as np
import pytest

from edgevit.contract.manifest import Tolerance
from edgevit.verification.parity import NOT_FINITE, distance, worst

B = np.array([[1.0, -4.0, 2.0]], np.float32)


def test_formula_is_that_of_the_apps():
    found = distance(B + np.float32([[0.0, 0.5, 0.0]]), B)
    assert (found.max_abs_error, found.max_relative_error) == (0.5, 0.125)
    assert found.snr_db == pytest.approx(10 * math.log10(21 / 0.25))


def test_equal_arrays_have_no_ratio():
    found = distance(B, B)
    assert (found.max_relative_error, found.snr_db) == (0, None)
    assert found.cosine == pytest.approx(1)
    assert found.misses(Tolerance(max_relative_error=0.0, min_snr_db=200.0)) == []


@pytest.mark.parametrize("actual", [np.full_like(B, np.nan), np.full_like(B, np.inf), B[:, :2]])
def test_values_that_are_no_numbers_and_other_shapes_are_beyond_every_tolerance(actual):
    assert distance(actual, B) == NOT_FINITE
    assert distance(actual, B).misses(Tolerance()) == ["values are not finite, or of another shape"]


def test_misses_name_what_was_asked_for():
    found = distance(1.1 * B, B)
    assert found.misses(Tolerance(max_relative_error=1e-5)) == ["max rel. error 1.00e-01, at most 1e-05 allowed"]
    assert found.misses(Tolerance(min_snr_db=25.0)) == ["SNR 20.0 dB, at least 25 dB needed"]
    assert found.misses(Tolerance(min_snr_db=15.0)) == []


def test_worst_takes_each_number_from_where_it_is_worst():
    one, other = distance(B, B), distance(1.1 * B, B)
    found = worst([one, other])
    assert found.max_relative_error == other.max_relative_error
    assert found.snr_db == other.snr_db
