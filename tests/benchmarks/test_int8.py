"""The arithmetic of the int8 benchmark: paired differences and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import int8
from edgevit.data.imageset import ImageSet

_COUNT = 400


@pytest.fixture
def pictures() -> ImageSet:
    targets = np.arange(_COUNT) % 4
    return ImageSet(tuple(np.zeros((_COUNT, 1, 1, 3), np.uint8)), targets, tuple("abcd"), "made/test")


def _logits(pictures: ImageSet, wrong: int) -> np.ndarray:
    """Right answers but for the first `wrong` pictures."""
    classes = pictures.targets.copy()
    classes[:wrong] = (classes[:wrong] + 1) % 4
    return np.eye(4, dtype=np.float32)[classes]


def test_drop_is_the_difference_in_points_within_its_interval(pictures):
    drop = int8._drop(_logits(pictures, 20), _logits(pictures, 28), pictures)
    assert drop["points"] == pytest.approx(2.0)
    assert drop["low"] < 2.0 < drop["high"]
    assert drop["low"] >= 0  # the same pictures: no second model was ever better
    assert drop["high"] < 4.5


def test_equal_answers_drop_nothing(pictures):
    logits = _logits(pictures, 30)
    assert int8._drop(logits, logits, pictures) == {"points": 0.0, "low": 0.0, "high": 0.0}
    assert int8._against(logits, logits, pictures) == {"agreement": 1.0, "snr_db": None, "equal_answers": 1.0}


def test_closeness_counts_noise_over_all_pictures(pictures):
    reference = _logits(pictures, 0)
    found = int8._against(reference * 1.01, reference, pictures)
    assert found["snr_db"] == pytest.approx(40.0, abs=0.01)
    assert (found["agreement"], found["equal_answers"]) == (1.0, 0.0)


def test_course_names_models_and_targets_that_exist():
    import tomllib

    from edgevit.models import get_spec
    from edgevit.plugins import converter_names
    from edgevit.training.recipe import get_recipe

    course = tomllib.loads(int8.COURSE.read_text())
    assert all(get_spec(name) for name in course["models"])
    assert set(course["targets"]) <= set(converter_names())
    assert get_recipe(course["recipe"])
