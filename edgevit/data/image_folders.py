"""Folders of images: which part serves which split, and the files in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np

from edgevit.data.image_io import IMAGE_SUFFIXES, read_image
from edgevit.errors import UsageError

log = logging.getLogger(__name__)

_TEST_FOLDERS = ("test", "val")  # in order of preference


class ImageFiles(Sequence[np.ndarray]):
    """Image files that are decoded each time they are indexed: a large folder never sits in memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Self:
        return type(self)(self.paths[index]) if isinstance(index, slice) else self._read(self.paths[index])

    def subset(self, indices: Sequence[int]) -> Self:
        """Some of the files."""
        return type(self)([self.paths[index] for index in indices])

    def _read(self, path: Path) -> np.ndarray:
        return read_image(path)


def split_folders(folder: Path) -> tuple[Path, Path]:
    """Where the train and the test split lie: train/ and test/ (or val/), or both in the folder itself."""
    train = folder / "train"
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    if not train.is_dir() and test is None:
        return folder, folder
    if not train.is_dir() or test is None:
        missing = "train/" if test else "test/ or val/"
        raise UsageError(f"{folder} has no {missing}", fix="make both train/ and test/, or neither")
    return train, test


def warn_of_one_folder(folder: Path) -> None:
    """The log line for data without splits."""
    log.warning("%s has no train/ and test/: all its images serve both, so test scores say nothing new", folder)


def subfolders(folder: Path) -> list[Path]:
    """By name; hidden ones do not count."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path, what: str, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Images of one folder by name; hidden files do not count, anything else that is no image is an error.

    what: the folder's part in the data, for the error. Raises UsageError also for a folder without images.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in files:
        if path.suffix.lower() not in suffixes:
            known = " ".join(sorted(suffixes))
            raise UsageError(f"{path} is not an image file", fix=f"move it away; images here end in {known}")
    if not files:
        raise UsageError(f"{what} {folder} has no images", fix="add images or remove the folder")
    return files
