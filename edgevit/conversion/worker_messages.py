"""What the pipeline and a worker process leave for each other in a folder: typed files, each written in one step."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.contract.golden import Reference
from edgevit.contract.manifest import AppliedPass, ReferenceFacts, Tolerance, applied_pass_from_json
from edgevit.errors import ConversionError
from edgevit.infra.error_records import error_from_json, error_text, error_to_json
from edgevit.infra.files import write_bytes, write_json
from edgevit.targets.registry import converter_package

_PARTS = ("pixels", "tensor", "logits")  # of a golden image
_NUMBERS = "numbers"  # the array that holds JSON


@dataclass(frozen=True, slots=True)
class CheckpointOutputs:
    """What the checkpoint computes, and every artifact is held to.

    goldens: images with their logits, by name; probes (N, 3, H, W): random images, with their logits (N, ...).
    tolerance: how far outputs in the conversion's precision may be from these; facts: why.
    """

    goldens: list[Reference]
    probes: np.ndarray
    probe_logits: np.ndarray
    tolerance: Tolerance
    facts: ReferenceFacts

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        numbers = {"tolerance": dataclasses.asdict(self.tolerance), "facts": dataclasses.asdict(self.facts)}
        arrays: dict[str, Any] = {
            "probes": self.probes,
            "probe_logits": self.probe_logits,
            _NUMBERS: json.dumps(numbers),
        }
        for golden in self.goldens:
            arrays |= {f"{golden.name}.{part}": getattr(golden, part) for part in _PARTS}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> CheckpointOutputs:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            names = sorted({key.removesuffix(".pixels") for key in arrays.files if key.endswith(".pixels")})
            goldens = [Reference(name, *(arrays[f"{name}.{part}"] for part in _PARTS)) for name in names]
            numbers = json.loads(str(arrays[_NUMBERS]))
            tolerance, facts = Tolerance(**numbers["tolerance"]), ReferenceFacts(**numbers["facts"])
            return cls(goldens, arrays["probes"], arrays["probe_logits"], tolerance, facts)


@dataclass(frozen=True, slots=True)
class ProgramFiles:
    """A saved program, and the file of what its checkpoint computes."""

    program: Path
    outputs: Path

    def to_json(self) -> dict[str, str]:
        """As plain data."""
        return {"program": str(self.program), "outputs": str(self.outputs)}

    @classmethod
    def from_json(cls, document: dict[str, str]) -> ProgramFiles:
        """What `to_json` wrote."""
        return cls(Path(document["program"]), Path(document["outputs"]))


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One conversion for a worker process.

    options: all of the converter's, plain data. out: the folder for the artifact's folder. applied: the deploy passes
    that made the program. fp32_reference: of an int8 program, the same network on the same weights, not quantized.
    """

    target: str
    options: dict[str, Any]
    out: Path
    files: ProgramFiles
    applied: tuple[AppliedPass, ...]
    fp32_reference: ProgramFiles | None = None

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        document = {
            "target": self.target,
            "options": self.options,
            "out": str(self.out),
            "files": self.files.to_json(),
            "applied": [dataclasses.asdict(step) for step in self.applied],
            "fp32_reference": None if self.fp32_reference is None else self.fp32_reference.to_json(),
        }
        write_json(path, document)

    @classmethod
    def load(cls, path: Path) -> WorkerRequest:
        """Read what `save` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        reference = document["fp32_reference"]
        return cls(
            target=document["target"],
            options=document["options"],
            out=Path(document["out"]),
            files=ProgramFiles.from_json(document["files"]),
            applied=tuple(applied_pass_from_json(step) for step in document["applied"]),
            fp32_reference=None if reference is None else ProgramFiles.from_json(reference),
        )


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """The artifact that a worker made; manifest_sha256: of the manifest as it was written."""

    artifact: Path
    manifest_sha256: str

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        write_json(path, {"artifact": str(self.artifact), "manifest_sha256": self.manifest_sha256})

    @classmethod
    def load(cls, path: Path, target: str) -> WorkerResult:
        """Read what a worker for the target wrote; raises the error that ended it, as `save_failure` left it.

        An error that is not edgevit's or the converter's own is raised as a ConversionError with its type and text.
        """
        document = json.loads(path.read_text(encoding="utf-8"))
        if "error" not in document:
            return cls(Path(document["artifact"]), document["manifest_sha256"])
        record = document["error"]
        error = error_from_json(record, {"edgevit", converter_package(target)})
        if error is None:
            fix = record["fix"] or "--debug shows where; report it if the model is not at fault"
            raise ConversionError(f"the {target} converter failed with {error_text(record)}", fix=fix)
        raise error


def save_failure(path: Path, error: Exception) -> None:
    """Leave an error in place of a WorkerResult."""
    write_json(path, {"error": error_to_json(error)})
