"""The metadata of a checkpoint: model, classes, labels, preprocessing, how it was trained and quantized."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgevit._version import __version__
from edgevit.errors import UsageError
from edgevit.spec import Interpolation, Preprocess

if TYPE_CHECKING:
    from edgevit.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """What a checkpoint must hold to be used without the code that trained it. JSON-serialisable.

    training has any keys: recipe, epochs, metrics. quantization: how an int8 checkpoint was made.
    """

    model: str
    num_classes: int
    input_size: int
    labels: tuple[str, ...]
    preprocess: Preprocess
    edgevit_version: str
    training: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != self.num_classes:
            raise UsageError(
                f"{len(self.labels)} labels for {self.num_classes} classes", fix="give exactly one label per class"
            )

    def to_json(self) -> str:
        """As a checkpoint stores it."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CheckpointMetadata:
        """Raises ValueError, TypeError or KeyError for text that `to_json` did not write; UsageError for bad values."""
        document = json.loads(text)
        preprocess = Preprocess(
            resize=int(document["preprocess"]["resize"]),
            crop=_tuple_of(int, document["preprocess"]["crop"], 2),
            mean=_tuple_of(float, document["preprocess"]["mean"], 3),
            std=_tuple_of(float, document["preprocess"]["std"], 3),
            interpolation=Interpolation(document["preprocess"]["interpolation"]),
        )
        return cls(
            model=str(document["model"]),
            num_classes=int(document["num_classes"]),
            input_size=int(document["input_size"]),
            labels=_tuple_of(str, document["labels"], len(document["labels"])),
            preprocess=preprocess,
            edgevit_version=str(document["edgevit_version"]),
            training=dict(document["training"]),
            quantization=document.get("quantization"),
        )


def metadata_for(spec: ModelSpec, labels: tuple[str, ...]) -> CheckpointMetadata:
    """Metadata for weights that came without: a model's spec, and its labels or numbers in their place."""
    return CheckpointMetadata(
        model=spec.name,
        num_classes=spec.num_classes,
        input_size=spec.input_size,
        labels=labels or tuple(map(str, range(spec.num_classes))),
        preprocess=spec.preprocess,
        edgevit_version=__version__,
    )


def _tuple_of(kind: type, values: object, count: int) -> tuple[Any, ...]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"expected a list of {count}")
    return tuple(kind(value) for value in values)
