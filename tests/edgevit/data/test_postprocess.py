import os

import numpy as np
import pytest
from PIL import Image

from edgevit.data.postprocess import (
    IGNORE_INDEX,
    Prediction,
    classify,
    enlarge_nearest,
    mask_on_photo,
    overlay,
    palette,
    save_png,
    segment_mask,
    softmax,
    top_k,
)
from edgevit.data.preprocess import Geometry, geometry
from edgevit.errors import StorageError, UsageError
from edgevit.spec import Preprocess
from tests.contract.make_preprocess_goldens import load_cases, noise, read_array

CASES = load_cases()


def golden(section):
    return pytest.mark.parametrize("case", CASES[section], ids=lambda case: case["name"])


@golden("rankings")
def test_ranking_equals_golden(case):
    logits = np.array(case["logits"], np.float32)
    assert top_k(logits, case["k"]).tolist() == case["indices"]
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, case["probabilities"], rtol=0, atol=1e-6)


@golden("masks")
def test_enlarged_mask_equals_golden(case):
    expected = read_array(case["enlarged"])
    np.testing.assert_array_equal(enlarge_nearest(read_array(case["mask"]), expected.shape), expected)


@golden("photo_masks")
def test_mask_on_photo_equals_golden(case):
    expected = read_array(case["photo_mask"])
    placed = mask_on_photo(read_array(case["mask"]), Geometry(**case["geometry"]), expected.shape)
    assert placed.dtype == np.uint8
    np.testing.assert_array_equal(placed, expected)


@golden("segments")
def test_segment_mask_equals_golden(case):
    mask = segment_mask(read_array(case["logits"]))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, read_array(case["mask"]))


def test_softmax_keeps_shape_and_sums_to_one_per_row():
    probabilities = softmax(noise("softmax", 4, 10).astype(np.float32))
    assert probabilities.shape == (4, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_top_k_ranks_most_negative_int8_last():
    assert top_k(np.array([-128, 5, 127], np.int8), 3).tolist() == [2, 1, 0]


def test_top_k_of_none_is_refused():
    with pytest.raises(UsageError, match="at least 1"):
        top_k(np.zeros(3), 0)


def test_classify_names_the_likeliest_classes():
    predictions = classify(np.array([[0.0, np.log(3.0), 0.0]], np.float32), ("a", "b", "c"), k=2)
    assert [(p.label, p.index) for p in predictions] == [("b", 1), ("a", 0)]
    assert [p.probability for p in predictions] == pytest.approx([0.6, 0.2], abs=1e-6)
    assert isinstance(predictions[0], Prediction)


def test_classify_ranks_by_logit_where_probabilities_are_equal():
    logits = np.array([100.0, -100.0, -99.5], np.float32)
    assert [p.index for p in classify(logits, "abc", k=3)] == [0, 2, 1]


def test_classify_refuses_wrong_label_count():
    with pytest.raises(UsageError, match="3 scores for 2 labels"):
        classify(np.zeros((1, 3), np.float32), ("a", "b"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    with pytest.raises(UsageError, match="1 of 2 logits"):
        classify(np.array([[0.0, value]], np.float32), ("a", "b"))
    with pytest.raises(UsageError, match="1 of 8 logits"):
        segment_mask(np.array([0.0] * 7 + [value], np.float32).reshape(1, 2, 2, 2))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 4, 4), (1, 256, 2, 2)])
def test_segment_mask_refuses_other_shapes(shape):
    with pytest.raises(UsageError, match="not one mask"):
        segment_mask(np.zeros(shape, np.float32))


def test_mask_on_photo_is_ignored_exactly_outside_the_crop():
    where = geometry(20, 40, Preprocess(resize=10, crop=(10, 10)))
    placed = mask_on_photo(np.ones((10, 10), np.uint8), where, (20, 40))
    assert (placed[:, 10:30] == 1).all()
    assert (placed[:, :10] == IGNORE_INDEX).all()
    assert (placed[:, 30:] == IGNORE_INDEX).all()


def test_palette_is_voc_and_distinct():
    colours = palette()
    assert colours[[0, 1, 2, 15]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128]]
    assert len(np.unique(colours, axis=0)) == 256


def test_overlay_blends_half_and_leaves_ignored_pixels():
    photo = np.array([[[255, 201, 7], [255, 201, 7], [255, 201, 7]]], np.uint8)
    blended = overlay(photo, np.array([[0, 1, IGNORE_INDEX]], np.uint8))
    assert blended.dtype == np.uint8
    assert blended.tolist() == [[[127, 100, 3], [191, 100, 3], [255, 201, 7]]]


def test_overlay_leaves_clear_classes_as_they_were():
    photo = np.array([[[255, 201, 7], [255, 201, 7]]], np.uint8)
    assert overlay(photo, np.array([[0, 1]], np.uint8), clear=[0]).tolist() == [[[255, 201, 7], [191, 100, 3]]]


def test_overlay_refuses_mask_of_other_size():
    with pytest.raises(UsageError, match="mask"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_save_png_round_trips_and_leaves_nothing_else(tmp_path, shape):
    pixels = noise("png", *shape)
    save_png(pixels, tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_save_png_failure_keeps_the_old_file_and_removes_the_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        save_png(noise("png", 4, 4), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.png"]
    assert path.read_bytes() == b"old"


def test_save_png_makes_its_folder_and_refuses_a_file_in_the_way(tmp_path):
    save_png(noise("png", 4, 4), tmp_path / "new" / "mask.png")
    assert (tmp_path / "new" / "mask.png").is_file()
    with pytest.raises(StorageError, match="cannot write"):
        save_png(noise("png", 4, 4), tmp_path / "new" / "mask.png" / "inside.png")
