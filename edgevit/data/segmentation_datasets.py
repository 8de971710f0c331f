"""Images with a class per pixel, from a folder with images/ and masks/."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgevit.data.image_folders import ImageFiles, image_files, split_folders, subfolders
from edgevit.data.image_io import image_size, read_mask
from edgevit.data.labels import read_labels
from edgevit.data.postprocess import IGNORE_INDEX
from edgevit.data.preprocess import preprocess_mask
from edgevit.errors import UsageError
from edgevit.spec import Preprocess, Task

_IMAGES, _MASKS, _LABELS = "images", "masks", "labels.txt"
_NAMED = 4  # files an error names


@dataclass(frozen=True, eq=False)
class MaskSet:
    """N images as L0 pixels (uint8, (H, W, 3), sizes may differ) with masks, uint8 (H, W), that index `labels`.

    A mask value of 255 is the ignore index: the pixel is neither learned nor scored.
    """

    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray]
    labels: tuple[str, ...]
    name: str
    skipped: int = 0  # files left out because they cannot be read
    task: ClassVar[Task] = Task.SEGMENT

    def __post_init__(self) -> None:
        if len(self.images) != len(self.masks):
            raise UsageError(f"{self.name}: {len(self.images)} images, {len(self.masks)} masks", fix="pair them")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int]) -> MaskSet:
        """Some of the images with their masks; labels and name stay."""
        images, masks = (
            files.subset(indices) if isinstance(files, ImageFiles) else tuple(files[i] for i in indices)
            for files in (self.images, self.masks)
        )
        return dataclasses.replace(self, images=images, masks=masks)

    def target(self, index: int, contract: Preprocess) -> np.ndarray:
        """The mask of one image as the network sees it: uint8 (crop H, crop W)."""
        return preprocess_mask(self.masks[index], contract)


class MaskFiles(ImageFiles):
    """Mask files that are decoded each time they are indexed."""

    def _read(self, path: Path) -> np.ndarray:
        return read_mask(path)


def holds_masks(folder: Path) -> bool:
    """Whether a split's folder is laid out for segmentation: images/ and masks/, or only one of them."""
    names = {path.name for path in subfolders(folder)}
    return bool(names) and names <= {_IMAGES, _MASKS}


def open_mask_folder(folder: Path, part: Path, *, name: str) -> MaskSet:
    """The images of `part`/images with the PNG of the same stem in `part`/masks; `part` is a split of `folder`.

    labels.txt in `folder` names the classes, one a line; without it they are the numbers up to the largest in any
    split. All masks are read once, so that a wrong one is found before training.
    Raises UsageError for images and masks that do not pair up or differ in size, and for values that are no class.
    """
    names = folder / _LABELS
    labels = read_labels(names) if names.is_file() else None
    largest = 0
    for split in dict.fromkeys((part, *split_folders(folder))):
        _, masks = _pairs(split)
        if labels is None or split == part:
            largest = max(largest, *(_largest(path, labels) for path in masks))
    images, masks = _pairs(part)
    for image, mask in zip(images, masks, strict=True):
        _require_same_size(image, mask)
    return MaskSet(ImageFiles(images), MaskFiles(masks), labels or tuple(map(str, range(largest + 1))), name)


def _pairs(part: Path) -> tuple[list[Path], list[Path]]:
    """The image and the mask files of a split, paired by stem."""
    for kind in (_IMAGES, _MASKS):
        if not (part / kind).is_dir():
            raise UsageError(f"{part} has no {kind}/", fix="put images into images/ and their masks into masks/")
    images = _by_stem(image_files(part / _IMAGES, "folder"))
    masks = _by_stem(image_files(part / _MASKS, "folder", frozenset({".png"})))
    for alone, kind in ((images.keys() - masks.keys(), "mask"), (masks.keys() - images.keys(), "image")):
        if alone:
            listed = ", ".join(sorted(alone)[:_NAMED]) + (", ..." if len(alone) > _NAMED else "")
            raise UsageError(f"{part}: no {kind} for {listed}", fix="give each image the mask of the same name")
    return list(images.values()), [masks[stem] for stem in images]


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise UsageError(
                f"{path} and {found[path.stem].name} have the same name", fix="give each image one of its own"
            )
        found[path.stem] = path
    return found


def _largest(path: Path, labels: tuple[str, ...] | None) -> int:
    """The largest class in a mask file, 0 if there is none."""
    values = np.unique(read_mask(path))
    classes = values[values != IGNORE_INDEX]
    if labels is not None and (classes >= len(labels)).any():
        raise UsageError(
            f"{path} has the value {classes.max()}, which is none of {len(labels)} classes",
            fix=f"use 0 to {len(labels) - 1} as labels.txt counts, and {IGNORE_INDEX} for pixels to ignore",
        )
    return int(classes.max(initial=0))


def _require_same_size(image: Path, mask: Path) -> None:
    try:
        height, width = image_size(image)
    except UsageError:
        return  # `readable` decides how many images may be damaged
    mask_height, mask_width = image_size(mask)
    if (height, width) != (mask_height, mask_width):
        raise UsageError(
            f"{mask} is {mask_width}x{mask_height}, {image.name} {width}x{height}",
            fix="save the mask in the size of its upright image",
        )
