import logging

import numpy as np
import pytest
from PIL import Image

from edgevit.data.datasets import ImageFiles, ImageSet, open_dataset
from edgevit.errors import UsageError
from tests.contract.make_preprocess_goldens import noise


def make_classes(folder, classes):
    """Write one PNG per name: {"cat": ["a.png"]}; its pixels depend on class and name."""
    for label, names in classes.items():
        (folder / label).mkdir(parents=True)
        for name in names:
            Image.fromarray(noise(label + name, 4, 6, 3)).save(folder / label / name)
    return folder


@pytest.mark.parametrize(("split", "count"), [("train", 1297), ("test", 500)])
def test_digits_splits(split, count):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    images = open_dataset("digits", split)
    assert len(images) == count == len(images.targets)
    pixels, target = images[3]
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert images.labels[target] == str(images.targets[3])


def test_folder_with_splits_sorts_classes_and_files(tmp_path):
    make_classes(tmp_path / "train", {"dog": ["b.png", "a.png"], "cat": ["z.png"]})
    make_classes(tmp_path / "test", {"dog": ["t.png"], "cat": ["u.png", "v.png"]})
    train, test = open_dataset(str(tmp_path), "train"), open_dataset(str(tmp_path), "test")
    assert train.labels == test.labels == ("cat", "dog")
    assert train.targets.tolist() == [0, 1, 1]
    assert test.targets.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(train[1][0], noise("doga.png", 4, 6, 3))
    np.testing.assert_array_equal(test[1][0], noise("catv.png", 4, 6, 3))
    assert train.name == f"{tmp_path.name}/train"


def test_folder_called_like_a_bundled_set_is_not_taken_for_it(tmp_path, monkeypatch):
    make_classes(tmp_path / "photos", {"cat": ["a.png"], "dog": ["b.png"]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r'"photos" is a bundled set and a folder here \(write ./photos for the folder'
    ):
        open_dataset("photos", "train")
    assert open_dataset("./photos", "train").labels == ("cat", "dog")


def test_val_serves_as_test(tmp_path):
    make_classes(tmp_path / "train", {"cat": ["a.png"]})
    make_classes(tmp_path / "val", {"cat": ["b.png", "c.png"]})
    assert len(open_dataset(str(tmp_path), "test")) == 2


def test_folder_without_splits_serves_both_and_warns(tmp_path, caplog):
    make_classes(tmp_path, {"cat": ["a.png"], "dog": ["b.png"]})
    with caplog.at_level(logging.WARNING):
        train, test = open_dataset(str(tmp_path), "train"), open_dataset(str(tmp_path), "test")
    assert train.targets.tolist() == test.targets.tolist() == [0, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "serve both" in caplog.text


def test_folder_with_splits_does_not_warn(tmp_path, caplog):
    make_classes(tmp_path / "train", {"cat": ["a.png"]})
    make_classes(tmp_path / "test", {"cat": ["b.png"]})
    open_dataset(str(tmp_path), "test")
    assert caplog.records == []


@pytest.mark.parametrize("present", ["train", "test", "val"])
def test_one_split_without_the_other_is_refused(tmp_path, present):
    make_classes(tmp_path / present, {"cat": ["a.png"]})
    with pytest.raises(UsageError, match="has no train/" if present != "train" else "has no test/ or val/"):
        open_dataset(str(tmp_path), "train")


def test_splits_with_different_classes_are_refused_by_name(tmp_path):
    make_classes(tmp_path / "train", {"cat": ["a.png"], "dog": ["a.png"]})
    make_classes(tmp_path / "test", {"cat": ["b.png"], "fox": ["a.png"]})
    with pytest.raises(UsageError, match="dog, fox"):
        open_dataset(str(tmp_path), "test")


def test_files_are_read_when_indexed_and_damage_names_the_file(tmp_path):
    make_classes(tmp_path, {"cat": ["a.png"]})
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    images = open_dataset(str(tmp_path), "train")
    assert images[0][0].shape == (4, 6, 3)
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        images[1]


def test_empty_class_folder_is_refused_by_name(tmp_path):
    make_classes(tmp_path, {"cat": ["a.png"], "dog": []})
    with pytest.raises(UsageError, match=r"dog has no images"):
        open_dataset(str(tmp_path), "train")


def test_folder_without_class_folders_is_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "loose.png")
    with pytest.raises(UsageError, match="no class folders"):
        open_dataset(str(tmp_path), "train")


def test_file_that_is_no_image_is_refused_and_hidden_ones_do_not_count(tmp_path):
    make_classes(tmp_path, {"cat": ["a.png"]})
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"")
    assert len(open_dataset(str(tmp_path), "train")) == 1
    (tmp_path / "cat" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"notes\.txt is not an image file"):
        open_dataset(str(tmp_path), "train")


def test_unknown_source_and_split_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no data at"):
        open_dataset(str(tmp_path / "absent"), "train")
    with pytest.raises(UsageError, match="unknown split 'tset'") as caught:
        open_dataset("digits", "tset")
    assert "did you mean test" in caught.value.fix


def test_images_and_targets_must_pair_up():
    with pytest.raises(UsageError, match="1 images, 2 targets"):
        ImageSet((np.zeros((1, 1, 3), np.uint8),), np.array([0, 1]), ("a", "b"), "broken")


def test_iterating_files_stops_at_the_end(tmp_path):
    make_classes(tmp_path, {"cat": ["a.png", "b.png"]})
    files = ImageFiles(sorted((tmp_path / "cat").iterdir()))
    assert [pixels.shape for pixels in files] == [(4, 6, 3)] * 2
