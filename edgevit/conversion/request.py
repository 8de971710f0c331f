"""One call of `convert` as a value: checked when it is made, and what its artifacts are cached under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.model_source import model_tier
from edgevit.data.labels import read_labels
from edgevit.errors import UsageError, unknown_name
from edgevit.quantization.weight_storage import INT8
from edgevit.spec import Precision, Tier
from edgevit.targets.options import options_for
from edgevit.targets.registry import converter_names, get_converter

if TYPE_CHECKING:
    from torch import nn

    from edgevit.data.image_io import ImageSource
    from edgevit.spec import ModelSpec

ALL = "all"  # the target that means those of the model's tier
DEFAULT_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert, for which targets, and how: the arguments of `convert`, which documents them.

    options: converter options as given, for all targets; `options_of` has those of one, the defaults filled in.

    Raises UsageError for names, options and combinations that can be seen to be wrong without opening the model.
    """

    model: str | nn.Module
    targets: tuple[str, ...]
    precision: Precision = Precision.FP32
    out: Path = Path("artifacts")
    weights: Path | None = None
    num_classes: int | None = None
    input_size: int | None = None
    labels: tuple[str, ...] = ()
    spec: ModelSpec | None = None
    replace_head: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    goldens: tuple[ImageSource, ...] = ()
    deploy: bool = True
    timeout_s: float = DEFAULT_TIMEOUT_S
    cache: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.model, str) and self.spec is not None:
            raise UsageError(f"{self.model} brings its own spec", fix="leave spec out: it describes an nn.Module")
        for number, what in ((self.num_classes, "classes"), (self.input_size, "pixels of each side")):
            if number is not None and number < 1:
                raise UsageError(f"{number} {what}", fix="a model needs at least 1")
        if not self.timeout_s > 0:
            raise UsageError(f"a time-out of {self.timeout_s} s", fix="give more than 0 with --timeout (timeout_s)")
        if not self.targets:
            raise UsageError("no target", fix="choose from: " + ", ".join((*converter_names(), ALL)))
        for name in self.options:
            addressed, dot, _ = name.rpartition(".")
            if dot and addressed not in converter_names():
                raise unknown_name("target", addressed, converter_names())
        for target in self.targets:
            self._check_target(target)

    def options_of(self, target: str) -> dict[str, Any]:
        """All options of one target's converter, the defaults filled in. Raises UsageError for those it has not."""
        return options_for(get_converter(target), self.options)

    def _check_target(self, target: str) -> None:
        precisions = get_converter(target).precisions
        if self.precision not in precisions:
            raise UsageError(
                f"{target} has no precision {self.precision}", fix=f"it has: {', '.join(sorted(precisions))}"
            )
        rounded = self.options_of(target).get("weight_compression") == INT8
        if not self.deploy and (rounded or self.precision is Precision.INT8):
            raise UsageError("int8 scales belong to the deployed form", fix="leave --no-deploy (deploy=False) out")


def chosen_targets(
    target: str | Sequence[str], model: str | nn.Module, spec: ModelSpec | None = None
) -> tuple[str, ...]:
    """Each target once, in the given order; "all" means those of the model's tier. Raises UsageError."""
    names = [target] if isinstance(target, str) else list(target)
    known = (*converter_names(), ALL)
    for name in names:
        if name not in known:
            raise unknown_name("target", name, known)
    meant = [one for name in names for one in (targets_of(model_tier(model, spec)) if name == ALL else (name,))]
    return tuple(dict.fromkeys(meant))


def targets_of(tier: Tier) -> tuple[str, ...]:
    """The targets that "all" means for models of a tier."""
    return tuple(name for name in converter_names() if get_converter(name).tier is tier)


def chosen_precision(precision: str) -> Precision:
    """The precision of this name. Raises UsageError with the nearest ones."""
    if precision not in tuple(Precision):
        raise unknown_name("precision", precision, Precision)
    return Precision(precision)


def chosen_labels(labels: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names, or those in a text file. Raises UsageError if it cannot be read."""
    return read_labels(Path(labels)) if isinstance(labels, (str, Path)) else tuple(labels)
