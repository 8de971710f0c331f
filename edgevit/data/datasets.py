"""Labelled images from the bundled sets or from a folder: a class per image, or one per pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgevit.data.bundled.digits import load_digits_split
from edgevit.data.bundled.photos import load_photos_split
from edgevit.data.bundled.tiles import load_tiles_split
from edgevit.data.image_folders import ImageFiles, image_files, split_folders, subfolders, warn_of_one_folder
from edgevit.data.segmentation_datasets import MaskSet, holds_masks, open_mask_folder
from edgevit.errors import UsageError, unknown_name
from edgevit.spec import Preprocess, Task

DIGITS, PHOTOS, TILES = "digits", "photos", "tiles"
SPLITS = ("train", "test")
_TARGETS = {Task.CLASSIFY: "a class per image", Task.SEGMENT: "a class per pixel"}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images as L0 pixels (uint8, (H, W, 3), sizes may differ) with int64 targets (N,) that index `labels`."""

    images: Sequence[np.ndarray]
    targets: np.ndarray
    labels: tuple[str, ...]
    name: str
    skipped: int = 0  # files left out because they cannot be read
    task: ClassVar[Task] = Task.CLASSIFY

    def __post_init__(self) -> None:
        if len(self.images) != len(self.targets):
            raise UsageError(f"{self.name}: {len(self.images)} images, {len(self.targets)} targets", fix="pair them")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Pixels and target of one image; folders read the file now, so UsageError if it is damaged."""
        return self.images[index], int(self.targets[index])

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Some of the images with their targets; labels and name stay."""
        images, targets = self.images, self.targets[list(indices)]
        if isinstance(images, ImageFiles):
            return dataclasses.replace(self, images=images.subset(indices), targets=targets)
        return dataclasses.replace(self, images=tuple(images[i] for i in indices), targets=targets)

    def target(self, index: int, contract: Preprocess) -> np.ndarray:
        """The class of one image, an int64 scalar; preprocessing does not change it."""
        return np.asarray(self.targets[index], np.int64)


LabelledDataset = ImageSet | MaskSet


def require_task(task: Task, images: LabelledDataset, model: str) -> None:
    """Raise UsageError for images whose targets do not fit the outputs of a model of this task."""
    if images.task is not task:
        have, does = (_TARGETS[one] for one in (images.task, task))
        raise UsageError(f"{images.name} has {have}, {model} outputs {does}", fix=f"give images with {does}")


def targets(images: LabelledDataset, contract: Preprocess) -> np.ndarray:
    """The targets of all images as a network sees them: int64 (N,), or masks uint8 (N, crop H, crop W)."""
    return np.stack([images.target(index, contract) for index in range(len(images))])


def open_dataset(source: str | Path | LabelledDataset, split: str) -> LabelledDataset:
    """The "train" or "test" part of "digits", "photos", "tiles" or a folder; a data set is returned as it is.

    A folder has train/ and test/ (or val/), each with one subfolder per class, or each with images/ and masks/ (see
    `open_mask_folder`); without them it holds such subfolders itself and serves both splits, with a warning. Class
    names in sorted order are the labels.
    Raises UsageError for a missing folder, one that is called like a bundled set, an empty class, a file that is no
    image, or splits with other classes.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if isinstance(source, LabelledDataset):
        return source
    folder = Path(source)
    if source in BUNDLED:
        if folder.is_dir():
            raise UsageError(
                f'"{source}" is a bundled set and a folder here',
                fix=f"write ./{source} for the folder, or start from elsewhere for the bundled set",
            )
        return BUNDLED[source](split)
    if not folder.is_dir():
        names = ", ".join(f'"{name}"' for name in BUNDLED)
        raise UsageError(
            f"no data at {source}", fix=f"give {names} or a folder with one subfolder per class, or images/ and masks/"
        )
    train, test = split_folders(folder)
    if train == test:
        warn_of_one_folder(folder)
    name = f"{folder.name}/{split}"
    if holds_masks(train) or holds_masks(test):
        return open_mask_folder(folder, train if split == "train" else test, name=name)
    _require_same_classes(folder, train, test)
    return _folder(train if split == "train" else test, name=name)


def open_splits(
    source: str | Path | tuple[LabelledDataset, LabelledDataset],
) -> tuple[LabelledDataset, LabelledDataset]:
    """The training and the test images of a source that `open_dataset` knows; a pair is returned as it is."""
    train, test = source if isinstance(source, tuple) else (source, source)
    return open_dataset(train, "train"), open_dataset(test, "test")


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


def _tiles(split: str) -> MaskSet:
    tiles = load_tiles_split()
    if split == "train":
        return MaskSet(tuple(tiles.train_images), tuple(tiles.train_masks), tiles.labels, "tiles/train")
    return MaskSet(tuple(tiles.test_images), tuple(tiles.test_masks), tiles.labels, "tiles/test")


BUNDLED: dict[str, Callable[[str], LabelledDataset]] = {DIGITS: _digits, PHOTOS: _photos, TILES: _tiles}


def _require_same_classes(folder: Path, train: Path, test: Path) -> None:
    only_one_side = {path.name for path in subfolders(train)} ^ {path.name for path in subfolders(test)}
    if only_one_side:
        raise UsageError(
            f"{folder}: {train.name}/ and {test.name}/ differ in classes {', '.join(sorted(only_one_side))}",
            fix="give both the same class folders",
        )


def _folder(folder: Path, *, name: str) -> ImageSet:
    """All images below `folder`, classes in name order and files in name order within them."""
    classes = _class_folders(folder)
    paths: list[Path] = []
    targets: list[int] = []
    for target, class_folder in enumerate(classes):
        files = image_files(class_folder, "class folder")
        paths += files
        targets += [target] * len(files)
    labels = tuple(path.name for path in classes)
    return ImageSet(ImageFiles(paths), np.array(targets, np.int64), labels, name)


def _class_folders(folder: Path) -> list[Path]:
    folders = subfolders(folder)
    if not folders:
        raise UsageError(f"{folder} has no class folders", fix="put the images into one subfolder per class")
    return folders
