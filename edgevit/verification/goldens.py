"""Whether this machine's preprocessing reproduces the stored golden vectors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from edgevit.data.preprocess import apply_geometry, geometry, normalize_table, to_tensor
from edgevit.errors import ContractError

if TYPE_CHECKING:
    from edgevit.artifacts.artifact import Artifact
    from edgevit.contract.manifest import Golden


def check_goldens(artifact: Artifact) -> int:
    """Recompute L1 and L2 from the stored L0, bit-exact. Returns how many images were checked.

    Raises ContractError naming the level: then this machine's preprocessing is not the artifact's.
    """
    manifest = artifact.manifest
    if manifest.preprocess is None:
        return 0
    table = normalize_table(manifest.preprocess.mean, manifest.preprocess.std)
    if table.astype("<f4").tobytes() != manifest.normalize_table:
        raise ContractError(f"{artifact.name}: normalisation table differs from mean and std", fix="convert again")
    for golden in manifest.goldens:
        pixels = artifact.golden_level(golden, "L0")
        height, width = pixels.shape[:2]
        frame = geometry(height, width, manifest.preprocess)
        if dataclasses.asdict(frame) != golden.geometry:
            raise ContractError(f"{artifact.name}: golden {golden.name} has another crop", fix="convert again")
        cropped = apply_geometry(pixels, frame, manifest.preprocess.interpolation)
        _require_equal(artifact, golden, "L1", cropped)
        source = manifest.inputs[0]
        tensor = cropped[None] if source.color else to_tensor(cropped, table, source.layout)
        _require_equal(artifact, golden, "L2", tensor)
    return len(manifest.goldens)


def _require_equal(artifact: Artifact, golden: Golden, level: str, computed: np.ndarray) -> None:
    if not np.array_equal(artifact.golden_level(golden, level), computed):
        raise ContractError(
            f"{artifact.name}: golden {golden.name} differs from this machine's preprocessing at level {level}",
            fix="convert again with this version of edgevit",
        )
