"""Damaged image files: few are named and left out, many end the command."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edgevit.data.corrupt_images import readable, spread
from edgevit.data.datasets import ImageSet, open_dataset
from edgevit.errors import UsageError
from tests.contract.make_preprocess_goldens import noise
from tests.edgevit.data.test_datasets import make_classes


def damage(path):
    """Cut a file short, in the middle of its pixels."""
    path.write_bytes(path.read_bytes()[:-30])


@pytest.fixture
def folder(tmp_path):
    return make_classes(tmp_path, {"cat": [f"{i}.png" for i in range(8)], "dog": [f"{i}.png" for i in range(8)]})


def test_whole_set_is_returned_as_it_is(folder):
    images = open_dataset(str(folder), "train")
    assert readable(images) is images


def test_few_damaged_files_are_named_and_count_no_more(folder, caplog):
    damage(folder / "cat" / "3.png")
    (folder / "dog" / "0.png").write_bytes(b"no image")
    whole = open_dataset(str(folder), "train")
    with caplog.at_level(logging.WARNING):
        images = readable(whole)
    assert (len(images), images.skipped) == (14, 2)
    assert images.targets.tolist() == [0] * 7 + [1] * 7
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["3.png" in line or "0.png" in line for line in warnings if "skipped" in line] == [True, True]
    np.testing.assert_array_equal(images[3][0], whole[4][0])  # the target stays with its image


def test_many_damaged_files_are_an_error_with_count_and_names(folder):
    for i in range(6):
        damage(folder / "cat" / f"{i}.png")
    with pytest.raises(UsageError, match=r"6 of 16 images .* cannot be read: .*0\.png, .*4\.png, \.\.\.") as caught:
        readable(open_dataset(str(folder), "train"))
    assert "up to 3" in caught.value.fix


def test_one_percent_of_a_large_set_may_be_damaged(tmp_path):
    make_classes(tmp_path, {"cat": [f"{i:03}.png" for i in range(500)]})
    for i in range(5):
        damage(tmp_path / "cat" / f"{i:03}.png")
    assert readable(open_dataset(str(tmp_path), "train")).skipped == 5
    damage(tmp_path / "cat" / "005.png")
    with pytest.raises(UsageError, match="6 of 500"):
        readable(open_dataset(str(tmp_path), "train"))


def test_class_that_loses_all_its_images_is_an_error(tmp_path):
    make_classes(tmp_path, {"cat": ["a.png"], "dog": ["b.png", "c.png"]})
    damage(tmp_path / "cat" / "a.png")
    with pytest.raises(UsageError, match="no image of class cat"):
        readable(open_dataset(str(tmp_path), "train"))


def test_masks_stay_with_their_images(tmp_path):
    from PIL import Image

    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(4):
        Image.fromarray(noise(str(i), 9, 9, 3)).save(tmp_path / f"images/{i}.png")
        Image.fromarray(np.full((9, 9), i, np.uint8)).save(tmp_path / f"masks/{i}.png")
    damage(tmp_path / "images" / "1.png")
    images = readable(open_dataset(str(tmp_path), "train"))
    assert [int(mask.max()) for mask in images.masks] == [0, 2, 3]
    assert (len(images), images.skipped) == (3, 1)


def test_images_in_memory_are_not_looked_at():
    images = ImageSet((np.zeros((1, 1, 3), np.uint8),), np.array([0]), ("a",), "memory")
    assert readable(images) is images


def test_spread_takes_from_everywhere_and_never_more_than_there_is():
    arrays = tuple(np.full((1, 1, 3), i, np.uint8) for i in range(10))
    images = ImageSet(arrays, np.arange(10), tuple("abcdefghij"), "memory")
    assert spread(images, 4).targets.tolist() == [0, 2, 5, 7]
    assert len(spread(images, 99)) == 10
