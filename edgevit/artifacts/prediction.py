"""What `edgevit predict` shows: the likeliest classes, or a mask and an overlay on the photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.data.image_io import read_image
from edgevit.data.postprocess import Prediction, mask_on_photo, overlay, save_png
from edgevit.data.preprocess import geometry

if TYPE_CHECKING:
    from edgevit.targets.base import Session

_BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest classes, best first."""

    classes: list[Prediction]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows for people."""
        return ("%", "class"), [(f"{100 * p.probability:.2f}", p.label) for p in self.classes]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Files written, and the share of the photo's pixels that each class covers (void left out)."""

    mask: str
    overlay: str
    shares: dict[str, float]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows for people."""
        rows = [(f"{100 * share:.1f}", label) for label, share in self.shares.items()]
        return ("%", "class"), [*rows, ("", f"mask {self.mask}"), ("", f"overlay {self.overlay}")]


def predict(artifact: Artifact | str | Path, image: Any, *, top: int = 5) -> list[Prediction] | np.ndarray:
    """Open an artifact, run one image (see `Artifact.predict`) and close it again."""
    opened = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    return opened.predict(image, top=top)


def classify_image(artifact: Artifact, image: Path, *, session: Session, top: int = 5) -> Classification:
    """The `top` classes of one image file."""
    return Classification(artifact.predict(image, session=session, top=top))


def segment_image(artifact: Artifact, image: Path, out: Path, *, session: Session) -> Segmentation:
    """Write PICTURE.mask.png (class indices, 255 outside the model's crop) and PICTURE.overlay.png into `out`.

    In the overlay a class called "background" keeps the photo's own colours.
    """
    photo = read_image(image)
    mask = artifact.predict(photo, session=session)
    frame = geometry(*photo.shape[:2], artifact.manifest.preprocess)
    large = mask_on_photo(mask, frame, photo.shape[:2])
    mask_path, overlay_path = (out / f"{image.stem}.{kind}.png" for kind in ("mask", "overlay"))
    save_png(large, mask_path)
    clear = [index for index, label in enumerate(mask_labels(artifact)) if label.casefold() == _BACKGROUND]
    save_png(overlay(photo, large, clear=clear), overlay_path)
    return Segmentation(str(mask_path), str(overlay_path), _shares(mask, artifact))


def mask_labels(artifact: Artifact) -> tuple[str, ...]:
    """What each value of a mask means; a model of one class tells it from background."""
    return artifact.labels if artifact.manifest.model.num_classes > 1 else (_BACKGROUND, *artifact.labels)


def _shares(mask: np.ndarray, artifact: Artifact) -> dict[str, float]:
    values, counts = np.unique(mask, return_counts=True)
    labels = mask_labels(artifact)
    return {labels[value]: count / mask.size for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
