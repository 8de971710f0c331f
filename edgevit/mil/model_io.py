"""Inputs and outputs as the model's description declares them: arrays, images, labels; to tensors and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgevit.errors import UsageError
from edgevit.mil.package import ARRAY_TYPES, COLORS, sizes_of
from edgevit.mil.program import kind_of

if TYPE_CHECKING:
    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Feature:
    """One input or output. shape: of an input, None where a size is free; color: of an image, else ""."""

    name: str
    kind: str = ""
    shape: tuple[int | None, ...] | None = None
    dtype: type | None = None
    color: str = ""
    optional: bool = False
    default: float = 0.0

    def to_tensor(self, value: Any) -> Tensor:
        """A user's value as the program's operand, checked against the declared shape. Raises UsageError."""
        if value is None:
            return self._absent()
        tensor = self._planes(value) if self.color else torch.as_tensor(_array(value))
        if self.shape == () and tensor.numel() == 1:
            tensor = tensor.reshape(())  # Core ML's arrays have at least one axis
        if self.shape is not None and not _fits(tuple(tensor.shape), self.shape):
            raise UsageError(f"input {self.name} has the shape {tuple(tensor.shape)}, the model wants {self.shape}")
        return tensor

    def to_user(self, value: Any, exact: bool) -> Any:
        """A result as predict returns it. exact: floats in the declared type, else in that of the computation."""
        if not isinstance(value, Tensor):
            return value
        if self.color:
            return self._image(value)
        array = value.numpy() if value.ndim else value.reshape(1).numpy()  # Core ML knows no scalars
        floats = self.dtype is not None and np.issubdtype(self.dtype, np.floating)
        if self.dtype is None or (floats and not exact and array.dtype.kind == "f"):
            return array.copy()
        return array.astype(self.dtype)

    def _absent(self) -> Tensor:
        if not self.optional:
            raise UsageError(f"input {self.name} is missing")
        return torch.full([size or 1 for size in self.shape or ()], self.default)

    def _planes(self, value: Any) -> Tensor:
        """(1, 3, H, W), or (1, 1, H, W) for grayscale, 0..255, in the program's colour order."""
        gray = self.color.startswith("GRAYSCALE")
        if hasattr(value, "convert"):
            value = value if gray and value.mode == "F" else value.convert("L" if gray else "RGB")
        array = _array(value)
        channels = 1 if gray else 3
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        if array.ndim == 2:
            array = array[None]
        elif array.ndim == 3 and array.shape[0] != channels and array.shape[-1] == channels:
            array = array.transpose(2, 0, 1)
        if array.ndim != 3 or len(array) != channels:
            raise UsageError(f"input {self.name} takes a {self.color} image, not an array {_array(value).shape}")
        if self.color == "BGR":
            array = array[::-1]
        return torch.from_numpy(np.ascontiguousarray(array))[None]

    def _image(self, value: Tensor) -> Any:
        """(1, C, H, W) -> PIL image."""
        from PIL import Image

        planes = value.reshape(value.shape[-3:]).float().numpy()
        if self.color == "GRAYSCALE_FLOAT16":
            return Image.fromarray(planes[0])
        planes = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
        if self.color == "GRAYSCALE":
            return Image.fromarray(planes[0])
        planes = planes[::-1] if self.color == "BGR" else planes
        return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def features_of(descriptions: Iterable[Message], types: Mapping[str, Message]) -> tuple[Feature, ...]:
    """Features of a description; `types` are the program's own, which fix the shapes of inputs."""
    return tuple(_feature(description, types.get(description.name)) for description in descriptions)


def _feature(description: Message, declared: Message | None) -> Feature:
    kind, shape = "", None
    if declared is not None and declared.WhichOneof("type") == "tensorType":
        kind = kind_of(declared)
        shape = sizes_of(declared.tensorType)
    form = description.type.WhichOneof("Type")
    color, dtype, default = "", None, 0.0
    if form == "imageType":
        color = COLORS[description.type.imageType.colorSpace]
    elif form == "multiArrayType":
        array = description.type.multiArrayType
        dtype = np.dtype(ARRAY_TYPES[array.dataType]).type if array.dataType in ARRAY_TYPES else None
        if which := array.WhichOneof("defaultOptionalValue"):
            default = getattr(array, which)
    return Feature(description.name, kind, shape, dtype, color, description.type.isOptional, default)


def _array(value: Any) -> np.ndarray:
    array = np.array(value)  # a copy, so that torch may hold it whatever its flags
    if array.dtype.kind == "u" and array.itemsize > 1:
        return array.astype(np.int64)
    if array.dtype.kind not in "bifu":
        raise UsageError(f"an input holds {array.dtype} instead of numbers")
    return array


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(b is None or a == b for a, b in zip(shape, declared, strict=True))
