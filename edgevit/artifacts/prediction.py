"""`predict`: the likeliest classes of an image, or a mask and an overlay on it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.artifacts.artifact import Artifact, opened
from edgevit.data.image_io import as_rgb
from edgevit.data.postprocess import Prediction, mask_on_photo, overlay, save_png
from edgevit.data.preprocess import geometry
from edgevit.spec import Task

if TYPE_CHECKING:
    from edgevit.data.image_io import ImageSource
    from edgevit.targets.base import Session

_BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest classes of one image, best first; image: its path, None for one that has none."""

    image: str | None
    classes: list[Prediction]

    def to_json(self) -> dict[str, Any]:
        """The document as printed."""
        return dataclasses.asdict(self)

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows for people."""
        return ("%", "class"), [(f"{100 * p.probability:.2f}", p.label) for p in self.classes]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The classes of the pixels of one image; image: its path, None for one that has none.

    mask: class indices, uint8 (H, W) at the image's size, 255 outside the crop that the model sees. shares: of the
    crop's pixels that each class covers. mask_file and overlay_file: what was written, None for an image without path.
    """

    image: str | None
    mask: np.ndarray
    shares: dict[str, float]
    mask_file: Path | None = None
    overlay_file: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The document as printed: files instead of pixels."""
        files = {"mask": self.mask_file, "overlay": self.overlay_file}
        paths = {name: None if file is None else str(file) for name, file in files.items()}
        return {"image": self.image, **paths, "shares": self.shares}

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows for people."""
        rows = [(f"{100 * share:.1f}", label) for label, share in self.shares.items()]
        files = {"mask": self.mask_file, "overlay": self.overlay_file}
        return ("%", "class"), [*rows, *(("", f"{name} {file}") for name, file in files.items() if file is not None)]


def predict(
    artifact: Artifact | str | Path,
    images: ImageSource | Sequence[ImageSource],
    *,
    top: int = 5,
    accelerator: str | None = None,
    threads: int = 1,
    out: str | Path = ".",
) -> list[Classification | Segmentation]:
    """Run images through an artifact in its own runtime, and decode its outputs as an app would; one result for each.

    artifact: an Artifact or its folder. images: one or several, each a path, a Pillow image, uint8 pixels (H, W, 3) or
    a normalised float32 tensor (1, 3, H, W). top: classes to give, where the artifact classifies. Where it segments, an
    image with a path also gives NAME.mask.png and NAME.overlay.png in the folder `out`, by default the current one; in
    the overlay a class called "background" keeps the image's own colours. accelerator: by default the one that the
    artifact was made for. threads: CPU threads of the runtime.
    Raises UsageError for what is no image, ContractError for a damaged artifact, NotExecutable where this machine has
    no runtime for it, StorageError.
    """
    one = opened(artifact)
    several = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    session = one.open(accelerator, threads)
    try:
        if one.manifest.model.task is Task.SEGMENT:
            return [_segmented(one, image, session, Path(out)) for image in several]
        return [_classified(one, image, session, top) for image in several]
    finally:
        session.close()


def _classified(artifact: Artifact, image: ImageSource, session: Session, top: int) -> Classification:
    classes = artifact.predict(image, session=session, top=top)
    assert isinstance(classes, list)  # what `Artifact.predict` gives for this task
    return Classification(_path_of(image), classes)


def _segmented(artifact: Artifact, image: ImageSource, session: Session, out: Path) -> Segmentation:
    if isinstance(image, np.ndarray) and image.ndim == 4:  # preprocessed already: the mask is of the model's size
        mask = _mask_of(artifact, image, session)
        return Segmentation(None, mask, _shares(mask, artifact))
    photo = as_rgb(image)
    mask = _mask_of(artifact, photo, session)
    height, width = photo.shape[:2]
    large = mask_on_photo(mask, geometry(height, width, artifact.manifest.image_preprocess), (height, width))
    shares, path = _shares(mask, artifact), _path_of(image)
    if path is None:
        return Segmentation(None, large, shares)
    mask_file, overlay_file = (out / f"{Path(path).stem}.{kind}.png" for kind in ("mask", "overlay"))
    save_png(large, mask_file)
    clear = [index for index, label in enumerate(mask_labels(artifact)) if label.casefold() == _BACKGROUND]
    save_png(overlay(photo, large, clear=clear), overlay_file)
    return Segmentation(path, large, shares, mask_file, overlay_file)


def _mask_of(artifact: Artifact, image: np.ndarray, session: Session) -> np.ndarray:
    mask = artifact.predict(image, session=session)
    assert isinstance(mask, np.ndarray)  # what `Artifact.predict` gives for this task
    return mask


def _path_of(image: ImageSource) -> str | None:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else None


def mask_labels(artifact: Artifact) -> tuple[str, ...]:
    """What each value of a mask means; a model of one class separates it from background."""
    return (_BACKGROUND, *artifact.labels) if artifact.manifest.model.num_classes == 1 else artifact.labels


def _shares(mask: np.ndarray, artifact: Artifact) -> dict[str, float]:
    values, counts = np.unique(mask, return_counts=True)
    labels = mask_labels(artifact)
    return {labels[value]: count / mask.size for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
