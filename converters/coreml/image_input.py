"""A Program that takes images: its own normalisation becomes part of the graph."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from edgevit.spec import Layout

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edgevit.spec import Preprocess, TensorSpec

COLOR = "RGB"


def from_pixels(exported: ExportedProgram, contract: Preprocess) -> ExportedProgram:
    """The program with (v / 255 - mean) / std before it: pixels 0..255 (1, 3, H, W) in, logits out.

    One multiplication and one addition per channel, constants rounded once. An ImageType's own scale is a single
    number, and folding a mean into a convolution is wrong where it pads: zero is not the mean.
    """
    import torch

    class FromPixels(torch.nn.Module):
        scale: torch.Tensor
        offset: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = exported.module(check_guards=False)
            mean, std = (
                torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)
                for values in (contract.mean, contract.std)
            )
            self.register_buffer("scale", (1 / (255 * std)).float())
            self.register_buffer("offset", (-mean / std).float())

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.network(image * self.scale + self.offset)

    with torch.no_grad():
        return torch.export.export(FromPixels(), exported.example_inputs[0])


def image_spec(spec: TensorSpec) -> TensorSpec:
    """What an app hands over in place of the normalised tensor `spec` (1, 3, H, W): uint8 (1, H, W, 3)."""
    _, channels, height, width = spec.shape
    return dataclasses.replace(spec, shape=(1, height, width, channels), dtype="uint8", layout=Layout.NHWC, color=COLOR)


def normalizes(operation: Any) -> bool:
    """A MIL operation is one of the two that `from_pixels` added.

    They stay fp32 in fp16 programs, in front of the cast that is there anyway: in fp16 the rounded scale alone
    costs VAN-B0 1 to 3 dB.
    """
    if operation.op_type == "add":
        return operation.x.op is not None and normalizes(operation.x.op)
    return operation.op_type == "mul" and operation.x.op is None
