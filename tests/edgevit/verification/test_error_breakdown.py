"""The stage-by-stage error breakdown: every stage against the one before."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.verification.error_breakdown import break_down, row

TARGETS = np.array([0, 1, 0, 1])
FIRST = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 2.0], [1.0, 4.0]], np.float32)


def test_steps_are_compared_with_the_step_before():
    second = FIRST * np.float32(1.1)
    third = second[:, ::-1]
    one, two, three = break_down({"a": FIRST, "b": second, "c": third}, TARGETS)
    assert (one.metric, one.score, one.agreement, one.snr_db) == ("top-1", 0.75, None, None)
    assert two.snr_db == pytest.approx(20, abs=0.01)
    assert (two.agreement, two.cosine) == (1.0, pytest.approx(1.0))
    assert two.max_abs_error == pytest.approx(0.4, rel=1e-5)
    assert (three.score, three.agreement) == (0.25, 0.0)


def test_equal_outputs_have_no_noise():
    _, same = break_down({"a": FIRST, "b": FIRST.copy()}, TARGETS)
    assert (same.snr_db, same.max_abs_error, same.agreement) == (None, 0.0, 1.0)
    assert row(same) == ("b", "75.00 %", "100.00 %", "equal", "1.00000", "0.00e+00")
