"""Labelled images from the bundled sets or from a folder with one subfolder per class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.data.digits import load_digits_split
from edgevit.data.images import IMAGE_SUFFIXES, read_image
from edgevit.data.photos import load_photos_split
from edgevit.errors import UsageError, unknown_name

log = logging.getLogger(__name__)

DIGITS, PHOTOS = "digits", "photos"
SPLITS = ("train", "test")
_TEST_FOLDERS = ("test", "val")  # in order of preference


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images as L0 pixels (uint8, (H, W, 3), sizes may differ) with int64 targets (N,) that index `labels`."""

    images: Sequence[np.ndarray]
    targets: np.ndarray
    labels: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if len(self.images) != len(self.targets):
            raise UsageError(f"{self.name}: {len(self.images)} images, {len(self.targets)} targets", hint="pair them")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Pixels and target of one image; folders read the file now, so UsageError if it is damaged."""
        return self.images[index], int(self.targets[index])


class ImageFiles(Sequence[np.ndarray]):
    """Image files that are decoded each time they are indexed: a large folder never sits in memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])


def open_imageset(source: str, split: str) -> ImageSet:
    """The "train" or "test" part of "digits", "photos" or a folder.

    A folder has train/ and test/ (or val/), each with one subfolder per class; without them its own subfolders
    are the classes and serve both splits, with a warning. Class names in sorted order are the labels.
    Raises UsageError for a missing folder, an empty class, a file that is no image, or splits with other classes.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if source == DIGITS:
        return _digits(split)
    if source == PHOTOS:
        return _photos(split)
    folder = Path(source)
    if not folder.is_dir():
        raise UsageError(
            f"no data at {source}", hint=f'give "{DIGITS}", "{PHOTOS}" or a folder with one subfolder per class'
        )
    return _folder(_split_folder(folder, split), name=f"{folder.name}/{split}")


def _digits(split: str) -> ImageSet:
    digits = load_digits_split()
    if split == "train":
        return ImageSet(tuple(digits.train_images), digits.train_labels, digits.labels, "digits/train")
    return ImageSet(tuple(digits.test_images), digits.test_labels, digits.labels, "digits/test")


def _photos(split: str) -> ImageSet:
    photos = load_photos_split()
    if split == "train":
        return ImageSet(tuple(photos.train_images), photos.train_targets, photos.labels, "photos/train")
    return ImageSet(tuple(photos.test_images), photos.test_targets, photos.labels, "photos/test")


def _split_folder(folder: Path, split: str) -> Path:
    """The folder that holds the classes of `split`."""
    train = folder / "train"
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    if not train.is_dir() and test is None:
        log.warning("%s has no train/ and test/: all its images serve both, so test scores say nothing new", folder)
        return folder
    if not train.is_dir() or test is None:
        missing = "train/" if test else "test/ or val/"
        raise UsageError(f"{folder} has no {missing}", hint="make both train/ and test/, or neither")
    only_one_side = {path.name for path in _class_folders(train)} ^ {path.name for path in _class_folders(test)}
    if only_one_side:
        raise UsageError(
            f"{folder}: {train.name}/ and {test.name}/ differ in classes {', '.join(sorted(only_one_side))}",
            hint="give both the same class folders",
        )
    return train if split == "train" else test


def _folder(folder: Path, *, name: str) -> ImageSet:
    """All images below `folder`, classes in name order and files in name order within them."""
    classes = _class_folders(folder)
    paths: list[Path] = []
    targets: list[int] = []
    for target, class_folder in enumerate(classes):
        files = _image_files(class_folder)
        paths += files
        targets += [target] * len(files)
    labels = tuple(path.name for path in classes)
    return ImageSet(ImageFiles(paths), np.array(targets, np.int64), labels, name)


def _class_folders(folder: Path) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UsageError(f"{folder} has no class folders", hint="put the images into one subfolder per class")
    return folders


def _image_files(class_folder: Path) -> list[Path]:
    """Images of one class by name; hidden files do not count, anything else that is no image is an error."""
    files = sorted(path for path in class_folder.iterdir() if not path.name.startswith("."))
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise UsageError(f"{path} is not an image file", hint=f"move it away; images end in {known}")
    if not files:
        raise UsageError(f"class folder {class_folder} has no images", hint="add images or remove the folder")
    return files
