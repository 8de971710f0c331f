"""What a model is, as plain data: names, shapes, preprocessing, published counts. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from edgevit.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EDGE_PARAMS = 35_000_000  # the most that a model for phones and boards has


class Task(StrEnum):
    """What the first output means: class logits (1, classes), a logit map (1, classes, H, W), or only numbers."""

    CLASSIFY = "classify"
    SEGMENT = "segment"
    TENSOR = "tensor"


class Tier(StrEnum):
    """Where a model is meant to run; picks defaults, never code paths."""

    EDGE = "edge"
    SERVER = "server"


class Precision(StrEnum):
    """Number format of an artifact's weights and arithmetic."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Layout(StrEnum):
    """Order of a tensor's axes; FLAT for tensors without image axes."""

    NCHW = "NCHW"
    NHWC = "NHWC"
    FLAT = "FLAT"


class Interpolation(StrEnum):
    """Resize filters of the preprocessing contract."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, static shape, dtype ("float32") and layout of one input or output.

    color: "RGB" where an image's own values 0..255 go in and the file normalises them; "" for all other tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout = Layout.FLAT
    color: str = ""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Image to tensor: short side to `resize`, centre crop, per-channel (v/255 - mean) / std.

    crop is (height, width) in pixels; mean and std have one number per channel. The exact arithmetic is in
    `edgevit.data.preprocess`.
    """

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = Interpolation.BILINEAR

    def __post_init__(self) -> None:
        if self.resize < max(self.crop):
            raise UsageError(
                f"crop {self.crop[0]}x{self.crop[1]} is larger than the resized short side {self.resize}",
                fix="make resize at least as large as the crop",
            )
        if min(self.std) <= 0:
            raise UsageError(
                f"std {self.std} has a value that is not positive", fix="std divides; give 3 positive numbers"
            )

    @classmethod
    def for_input(
        cls, size: int, *, crop_ratio: float = 1.0, interpolation: Interpolation = Interpolation.BILINEAR
    ) -> Preprocess:
        """Centre crop `size` out of a short side of size / crop_ratio (floor), ImageNet mean and std."""
        return cls(resize=int(size / crop_ratio), crop=(size, size), interpolation=interpolation)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One variant of a model family.

    build(num_classes, input_size) returns the training form with the official state-dict keys; it is None in
    a spec that was read back from a file.
    params and macs (multiply-accumulates, batch 1) are the published or counted values for the
    default classes and input size; a test holds the network to params.
    top1 is the paper's accuracy on ImageNet in percent, at the default input size. weights says under which licence
    the authors publish trained weights, or that there are none.
    """

    name: str
    task: Task
    tier: Tier
    build: Callable[[int, int], nn.Module] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    params: int
    macs: int
    paper: str
    size_multiple: int = 1  # input_size must be a multiple of this
    top1: float | None = None
    weights: str = ""

    @property
    def num_classes(self) -> int:
        """Classes of the output."""
        return self.outputs[0].shape[1]

    @property
    def input_size(self) -> int:
        """Pixels of each side of the input."""
        return self.inputs[0].shape[-1]

    def instantiate(self) -> nn.Module:
        """The training form with random weights; UsageError for a spec that was read back from a file."""
        if self.build is None:
            raise UsageError(
                f"{self.name} was read from a file without its code", fix="name a model that is built here"
            )
        return self.build(self.num_classes, self.input_size)

    def for_task(self, num_classes: int | None = None, input_size: int | None = None) -> ModelSpec:
        """This spec with another class count or input size: shapes and preprocessing follow.

        Raises UsageError for sizes the network cannot take.
        """
        classes = self.num_classes if num_classes is None else num_classes
        size = self.input_size if input_size is None else input_size
        if classes < 1:
            raise UsageError(f"{classes} classes", fix="a model needs at least 1 class")
        if size < self.size_multiple or size % self.size_multiple or size > 4096:
            raise UsageError(
                f"{self.name} cannot take input size {size}",
                fix=f"use a multiple of {self.size_multiple} up to 4096",
            )
        if (classes, size) == (self.num_classes, self.input_size):
            return self
        scale = self.preprocess.resize / self.input_size
        return dataclasses.replace(
            self,
            inputs=image_input(size),
            outputs=class_logits(classes) if self.task is Task.CLASSIFY else logit_map(classes, size),
            preprocess=dataclasses.replace(self.preprocess, resize=int(size * scale), crop=(size, size)),
        )


def tier_of(params: int) -> Tier:
    """Where a model of this size is meant to run."""
    return Tier.EDGE if params <= EDGE_PARAMS else Tier.SERVER


def image_input(size: int) -> tuple[TensorSpec, ...]:
    """The one input of every model here: a normalised RGB image (1, 3, size, size)."""
    return (TensorSpec("image", (1, 3, size, size), layout=Layout.NCHW),)


def class_logits(num_classes: int) -> tuple[TensorSpec, ...]:
    """One output (1, num_classes): unnormalised scores."""
    return (TensorSpec("logits", (1, num_classes)),)


def logit_map(num_classes: int, size: int) -> tuple[TensorSpec, ...]:
    """One output (1, num_classes, size, size): unnormalised scores per pixel; 1 class means foreground."""
    return (TensorSpec("logits", (1, num_classes, size, size), layout=Layout.NCHW),)
