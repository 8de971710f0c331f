"""Operations that are not arithmetic: states and the classifier's labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edgevit.mil.table import op


@op
def read_state(input: Any) -> Tensor:
    """The value in a state's slot."""
    return input.value


@op
def write_state(input: Any, data: Tensor) -> tuple[()]:
    """Replace the value in a state's slot; no result."""
    input.value = data
    return ()


@op
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """(label of the most probable class, probability by label); labels are strings or integers."""
    labels = classes.tolist() if isinstance(classes, Tensor) else classes
    flat = probabilities.reshape(-1)
    return labels[int(flat.argmax())], dict(zip(labels, flat.tolist(), strict=True))
