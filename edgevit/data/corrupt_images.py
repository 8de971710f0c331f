"""Image files that cannot be read: named and left out while they are few, an error once they are many."""

from __future__ import annotations

import dataclasses
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgevit.data.datasets import ImageSet, LabelledDataset
from edgevit.data.image_folders import ImageFiles
from edgevit.data.image_io import read_image
from edgevit.errors import UsageError
from edgevit.log import stage

log = logging.getLogger(__name__)

_FEW = 3  # files that may be damaged in any set
_SHARE = 0.01  # of a large one
_NAMED = 5  # files that an error names


def readable(images: LabelledDataset) -> LabelledDataset:
    """The set without the files that cannot be decoded; what is in memory is returned as it is.

    Every file is decoded once, on all cores, so that counts are true from the start and nothing stops a long run. Each
    file left out is a warning with its name and reason, and `skipped` counts them.
    Raises UsageError with the count and the first names for more than 3 files and 1 %, and for a class left empty.
    """
    if not isinstance(images.images, ImageFiles):
        return images
    paths = images.images.paths
    with stage("check", data=images.name, images=len(paths)) as running, ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = list(pool.map(_damage, paths))
        damaged = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
        running.result = f"{len(damaged)} cannot be read" if damaged else "all can be read"
    if not damaged:
        return images
    for reason in list(damaged.values())[: _limit(len(paths))]:
        log.warning("WARNING   skipped: %s", reason)
    if len(damaged) > _limit(len(paths)):
        named = ", ".join(map(str, list(damaged)[:_NAMED])) + (", ..." if len(damaged) > _NAMED else "")
        raise UsageError(
            f"{len(damaged)} of {len(paths)} images in {images.name} cannot be read: {named}",
            fix=f"copy them again or remove them; up to {_limit(len(paths))} would be skipped",
        )
    kept = images.subset([index for index, reason in enumerate(reasons) if not reason])
    _require_all_classes(images, kept)
    return dataclasses.replace(kept, skipped=len(damaged))


def spread(images: LabelledDataset, count: int) -> LabelledDataset:
    """Up to `count` images, evenly spread over the set."""
    return images.subset(spread_indices(len(images), count))


def spread_indices(length: int, count: int) -> list[int]:
    """Up to `count` indices, evenly spread over `length`."""
    count = min(count, length)
    return [length * i // count for i in range(count)]


def _limit(count: int) -> int:
    return max(_FEW, int(_SHARE * count))


def _require_all_classes(images: LabelledDataset, kept: LabelledDataset) -> None:
    if (
        isinstance(images, ImageSet)
        and isinstance(kept, ImageSet)
        and (lost := set(images.targets.tolist()) - set(kept.targets.tolist()))
    ):
        named = ", ".join(images.labels[target] for target in sorted(lost))
        raise UsageError(f"no image of class {named} in {images.name} can be read", fix="copy them again")


def _damage(path: Path) -> str:
    """Why a file cannot be read, with its name; empty if it can."""
    try:
        read_image(path)
    except UsageError as error:
        return error.message
    return ""
