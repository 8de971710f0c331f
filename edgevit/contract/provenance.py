"""Where an artifact came from: its weights, the tools and options, the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgevit.contract.plain_data import build, fields_of


@dataclass(frozen=True, slots=True)
class WeightsOrigin:
    """The weights behind an artifact.

    source: "checkpoint", "memory" or "random". state_sha256: over names, shapes and bytes of all weights. file and
    sha256 are the checkpoint's; quantization: how int8 weights were made; training: from the checkpoint's metadata.
    """

    source: str
    state_sha256: str
    file: str | None = None
    sha256: str | None = None
    quantization: str | None = None
    training: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an artifact was made.

    tools: distribution -> version. options: the converter's. git_commit: of edgevit's checkout, with "+" when it was
    edited, None outside one. conversion_s: seconds that the converter took. kernels: the library that the deploy passes
    chose for.
    """

    weights: WeightsOrigin
    tools: dict[str, str | None]
    options: dict[str, Any]
    edgevit_version: str
    git_commit: str | None
    python: str
    platform: str
    created_utc: str
    conversion_s: float
    kernels: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object in manifest.json; what the weights do not have is left out."""
        document = fields_of(self)
        document["weights"] = {key: value for key, value in document["weights"].items() if value is not None}
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Provenance:
        """Rebuild the typed form; unknown keys are ignored."""
        return build(cls, document, weights=lambda weights: build(WeightsOrigin, weights))
