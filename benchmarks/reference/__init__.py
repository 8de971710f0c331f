"""Baseline networks: what an engineer exports who takes the published code as it is, frozen for the comparison.

They load the same checkpoints as `edgevit.models` and give the same numbers, but share no code with it: a change made
there for a runtime must not change what it is measured against. For inference only: dropout and stochastic depth,
identities in eval, are left out, and weights come from a checkpoint, not from these constructors.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.reference import mobile_former, segnetr, van, vt_resnet
from edgevit.errors import unknown_name

_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "van_b0": van.van_b0,
    "mobile_former_294m": mobile_former.mobile_former_294m,
    "segnetr_32": segnetr.segnetr_32,
    "vt_resnet18": vt_resnet.vt_resnet18,
}
_DEFAULT_CLASSES = {"segnetr_32": 1}  # foreground against background; the others know ImageNet's 1000

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def build(name: str, num_classes: int | None = None) -> nn.Module:
    """The baseline form of a model in eval, with PyTorch's initial weights; UsageError if there is none called `name`.

    None keeps the published class count. It takes float32 images (N, 3, S, S) and returns logits (N, classes), or
    (N, classes, S, S) for segmentation; its state dict is that of `edgevit.create_model(name)`.
    """
    try:
        builder = _BUILDERS[name]
    except KeyError:
        raise unknown_name("baseline network", name, _BUILDERS) from None
    return builder(_DEFAULT_CLASSES.get(name, 1000) if num_classes is None else num_classes).eval()
