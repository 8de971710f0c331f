"""Folders of images and masks: pairing, sizes, values, labels, and the geometry that images and masks share."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from edgevit.data.datasets import ImageSet, open_dataset, require_task, targets
from edgevit.data.segmentation_datasets import MaskSet
from edgevit.errors import UsageError
from edgevit.spec import Preprocess, Task
from tests.contract.make_preprocess_goldens import noise

CONTRACT = Preprocess.for_input(8)


def make_masks(folder, split, masks, *, suffix=".png"):
    """An image and a mask per name: {"a": mask}."""
    for name, mask in masks.items():
        for kind, pixels, ending in (("images", noise(name, *mask.shape, 3), suffix), ("masks", mask, ".png")):
            path = folder / split / kind / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def squares(value: int, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[2:6, 3:9] = value
    return mask


@pytest.fixture
def folder(tmp_path):
    make_masks(tmp_path, "train", {"b": squares(1), "a": squares(2)}, suffix=".bmp")
    return make_masks(tmp_path, "test", {"c": squares(1)})


def test_images_and_masks_pair_by_name_whatever_the_image_format(folder):
    train, test = (open_dataset(str(folder), split) for split in ("train", "test"))
    assert isinstance(train, MaskSet)
    assert (len(train), len(test), train.task) == (2, 1, Task.SEGMENT)
    assert [mask.max() for mask in train.masks] == [2, 1]
    assert np.array_equal(train.images[0], noise("a", 10, 12, 3))
    assert train.name == f"{folder.name}/train"


def test_classes_are_numbers_of_both_splits_or_the_names_of_labels_txt(folder):
    assert open_dataset(str(folder), "test").labels == ("0", "1", "2")  # though 2 is in train alone
    (folder / "labels.txt").write_text("background\ncoin\ncell\nnothing\n")
    assert open_dataset(str(folder), "test").labels == ("background", "coin", "cell", "nothing")


def test_255_is_no_class(tmp_path):
    make_masks(make_masks(tmp_path, "train", {"a": squares(255), "b": squares(1)}), "val", {"c": squares(1)})
    assert open_dataset(str(tmp_path), "train").labels == ("0", "1")


def test_folder_without_splits_serves_both_and_warns(tmp_path, caplog):
    make_masks(tmp_path, ".", {"a": squares(1)})
    with caplog.at_level(logging.WARNING):
        assert len(open_dataset(str(tmp_path), "test")) == 1
    assert "serve both" in caplog.text


def test_value_that_is_no_class_names_the_file(folder):
    (folder / "labels.txt").write_text("background\ncoin\n")
    with pytest.raises(UsageError, match=r"masks/a\.png has the value 2, which is none of 2 classes"):
        open_dataset(str(folder), "train")


def test_mask_of_another_size_names_both(folder):
    Image.fromarray(squares(1, (12, 10))).save(folder / "test" / "masks" / "c.png")
    with pytest.raises(UsageError, match=r"c\.png is 10x12, c\.png 12x10"):
        open_dataset(str(folder), "test")


@pytest.mark.parametrize(("kind", "missing"), [("masks", "image"), ("images", "mask")])
def test_lonely_files_are_named(folder, kind, missing):
    Image.fromarray(squares(1)).save(folder / "train" / kind / "lonely.png")
    with pytest.raises(UsageError, match=f"no {missing} for lonely"):
        open_dataset(str(folder), "train")


def test_two_images_of_one_name_are_refused(folder):
    Image.fromarray(noise("a", 10, 12, 3)).save(folder / "train" / "images" / "a.png")
    with pytest.raises(UsageError, match=r"a\.png and a\.bmp have the same name"):
        open_dataset(str(folder), "train")


def test_missing_and_empty_folders_are_refused(folder):
    for path in (folder / "train" / "masks").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="masks has no images"):
        open_dataset(str(folder), "train")
    (folder / "train" / "masks").rmdir()
    with pytest.raises(UsageError, match="train has no masks/"):
        open_dataset(str(folder), "test")


@pytest.mark.parametrize(("mode", "says"), [("RGB", "has RGB pixels"), ("I;16", "has I;16 pixels")])
def test_mask_with_colours_or_many_bits_is_refused(folder, mode, says):
    Image.new(mode, (12, 10)).save(folder / "train" / "masks" / "a.png")
    with pytest.raises(UsageError, match=says):
        open_dataset(str(folder), "train")


def test_mask_as_jpeg_is_refused_for_its_invented_values(folder):
    (folder / "train" / "masks" / "a.png").rename(folder / "train" / "masks" / "a.jpg")
    with pytest.raises(UsageError, match=r"a\.jpg is not an image file .*end in \.png"):
        open_dataset(str(folder), "train")


def test_palette_mask_means_its_indices(folder):
    image = Image.fromarray(squares(2))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(folder / "train" / "masks" / "a.png")
    assert np.array_equal(open_dataset(str(folder), "train").masks[0], squares(2))


def test_target_is_the_mask_in_the_window_that_the_network_sees(folder):
    test = open_dataset(str(folder), "test")
    (mask,) = targets(test, CONTRACT)
    assert (mask.shape, mask.dtype) == ((8, 8), np.uint8)
    assert set(np.unique(mask)) == {0, 1}
    # 10x12 becomes 8x9, of which the columns 0 to 8 are seen: halves go to the even neighbour.
    assert np.array_equal(mask, squares(1)[np.ix_([0, 1, 3, 4, 5, 6, 8, 9], [0, 2, 3, 4, 6, 7, 8, 10])])


def test_turned_photo_is_as_large_as_it_looks(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise("c", 12, 10, 3)).save(folder / "test" / "images" / "c.jpg", exif=exif)
    (folder / "test" / "images" / "c.png").unlink()
    assert open_dataset(str(folder), "test").images[0].shape == (10, 12, 3)


def test_images_of_another_task_are_refused():
    empty = ImageSet((), np.array([], np.int64), ("a",), "animals/train")
    with pytest.raises(UsageError, match="animals/train has a class per image, unet outputs a class per pixel"):
        require_task(Task.SEGMENT, empty, "unet")
