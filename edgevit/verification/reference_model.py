"""The checkpoint that an artifact was made from, opened as the network that the artifact shall equal."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import UsageError
from edgevit.spec import Precision

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from edgevit.artifacts.artifact import Artifact
    from edgevit.checkpoints.model_source import Source

    Reference = Callable[[np.ndarray], np.ndarray]


def open_checkpoint(artifact: Artifact, weights: str | Path, model: str | None, precision: Precision | None) -> Source:
    """A checkpoint as the network that the artifact says it is; precision as in `open_source`."""
    from edgevit.checkpoints.model_source import open_source

    facts = artifact.manifest.model
    return open_source(
        model or facts.name,
        weights=weights,
        num_classes=facts.num_classes,
        input_size=facts.input_size,
        precision=precision,
    )


def open_float_form(artifact: Artifact, weights: str | Path, model: str | None = None) -> Reference:
    """The float network of an int8 artifact's checkpoint as a function."""
    return remembering(open_checkpoint(artifact, weights, model, None).run)


def open_source_of(artifacts: list[Artifact], weights: str | Path, model: str | None = None) -> Source:
    """The checkpoint's network, after a check that it is the very one that the artifacts were made from.

    model: "file.py:factory" for networks that are not ours. Raises UsageError for other weights.
    """
    int8 = artifacts[0].manifest.precision is Precision.INT8
    source = open_checkpoint(artifacts[0], weights, model, Precision.INT8 if int8 else Precision.FP32)
    for artifact in artifacts:
        if artifact.manifest.provenance["weights"]["state_sha256"] != source.weights["state_sha256"]:
            raise UsageError(
                f"{artifact.name} was not made from {weights}",
                hint="give the checkpoint that was converted, or convert again",
            )
    return source


def remembering(run: Reference) -> Reference:
    """A reference that answers once for each input: several artifacts of one checkpoint see the same pictures."""
    known: dict[bytes, np.ndarray] = {}

    def once(tensor: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(tensor.tobytes()).digest()
        if key not in known:
            known[key] = run(tensor)
        return known[key]

    return once
