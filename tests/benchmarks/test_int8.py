"""The arithmetic of the int8 benchmark: paired differences and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import compressed, int8

_COUNT = 400


@pytest.fixture
def target() -> np.ndarray:
    return np.arange(_COUNT) % 4


def _logits(target: np.ndarray, wrong: int) -> np.ndarray:
    """Right predictions but for the first `wrong` images."""
    classes = target.copy()
    classes[:wrong] = (classes[:wrong] + 1) % 4
    return np.eye(4, dtype=np.float32)[classes]


def test_drop_is_the_difference_in_percentage_points_within_its_interval(target):
    drop = int8.drop(_logits(target, 20), _logits(target, 28), target)
    assert drop["percentage_points"] == pytest.approx(2.0)
    assert drop["low"] < 2.0 < drop["high"]
    assert drop["low"] >= 0  # the same images: no second model was ever better
    assert drop["high"] < 4.5


def test_drop_of_masks_is_that_of_the_mean_iou():
    masks = np.zeros((60, 4, 4), np.uint8)
    masks[:, :, 2:] = 1
    worse = masks.copy()
    worse[:30, :, 2] = 0  # half of the images lose a column of class 1
    before, after = (np.eye(2, dtype=np.float32)[output].transpose(0, 3, 1, 2) for output in (masks, worse))
    drop = int8.drop(before, after, masks)
    assert drop["percentage_points"] == pytest.approx(100 * (1 - (480 / 600 + 360 / 480) / 2))
    assert drop["low"] < drop["percentage_points"] < drop["high"]
    assert drop["high"] - drop["low"] > 5  # which images are drawn decides


def test_equal_outputs_drop_nothing(target):
    logits = _logits(target, 30)
    assert int8.drop(logits, logits, target) == {"percentage_points": 0.0, "low": 0.0, "high": 0.0}
    assert int8.against(logits, logits, target) == {"agreement": 1.0, "snr_db": None, "equal_outputs": 1.0}


def test_closeness_counts_noise_over_all_images(target):
    reference = _logits(target, 0)
    found = int8.against(reference * 1.01, reference, target)
    assert found["snr_db"] == pytest.approx(40.0, abs=0.01)
    assert (found["agreement"], found["equal_outputs"]) == (1.0, 0.0)


def test_experiments_name_models_data_and_forms_that_exist():
    from edgevit.data.datasets import BUNDLED
    from edgevit.models import get_spec
    from edgevit.targets.registry import get_converter
    from edgevit.training.recipe import get_recipe

    for name, experiment in int8.read_experiments(int8.EXPERIMENTS).items():
        assert get_spec(name).for_task(2, experiment.input_size)
        assert all(get_converter(form.target).Options(**form.options) for form in experiment.forms.values())
        assert get_recipe(experiment.recipe)
        assert experiment.data in BUNDLED


def test_every_compressed_form_is_one_that_its_targets_have():
    import tomllib

    from edgevit.targets.registry import get_converter

    plan = tomllib.loads(compressed.PLAN.read_text())
    assert set(plan["models"]) <= set(int8.read_experiments(int8.EXPERIMENTS))
    for form in plan["forms"]:
        for target in form.get("targets", plan["targets"]):
            converter = get_converter(target)
            assert form["precision"] in converter.precisions
            assert converter.Options(weight_compression=form.get("weight_compression", "none"))
