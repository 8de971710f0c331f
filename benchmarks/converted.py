"""One artifact of `edgevit.convert`, which gives a list for several targets."""

from __future__ import annotations

from edgevit.artifacts.artifact import Artifact


def single(converted: Artifact | list[Artifact]) -> Artifact:
    """What came of one target name."""
    assert isinstance(converted, Artifact)
    return converted
