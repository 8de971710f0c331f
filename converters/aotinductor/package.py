"""Metadata of a .pt2 package, read from its archive without loading its code."""

from __future__ import annotations

import json
import platform
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import ContractError

if TYPE_CHECKING:
    from edgevit.contract.manifest import Manifest
    from edgevit.export.program import Program

FACTS = "edgevit"  # key of our own entry in a package's metadata
_MAX_METADATA_BYTES = 1 << 20
# Inductor's names of sets of instructions -> torch.cpu's.
_CAPABILITIES = {"AVX2": "avx2", "AVX512": "avx512_f", "AVX512_VNNI": "avx512_vnni", "AMX_TILE": "amx_tile"}


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """Metadata of a compiled package.

    expected: facts of the program, recorded when it was compiled. architecture: "x86_64"; instructions: sets of
    vector instructions that the code uses ("AVX512"); device: "cpu" or "cuda".
    """

    expected: dict[str, Any]
    architecture: str
    instructions: tuple[str, ...]
    device: str
    library_bytes: int

    @property
    def machine(self) -> str:
        """Device, processor and instruction sets in one line: "cpu x86_64 AVX512"."""
        return " ".join(filter(None, (self.device, self.architecture, *self.instructions)))

    @property
    def torch(self) -> str:
        """Version of torch that compiled it."""
        return str(self.expected["torch"])


def package_facts(program: Program, accelerator: str) -> dict[str, Any]:
    """Metadata to put into a package: its inputs and outputs, its precision and what compiled it."""
    import torch

    ends = {"inputs": program.spec.inputs, "outputs": program.spec.outputs}
    return {
        **{kind: [[spec.name, list(spec.shape[1:]), spec.dtype] for spec in specs] for kind, specs in ends.items()},
        "precision": program.precision.value,
        "accelerator": accelerator,
        "torch": torch.__version__,
    }


def read_facts(path: Path) -> PackageFacts:
    """Read a package's metadata. Raises ContractError if it is damaged or not one of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            (library,) = (entry for entry in entries if entry.filename.endswith(".so"))
            (described,) = (entry for entry in entries if entry.filename.endswith(".wrapper_metadata.json"))
            if described.file_size > _MAX_METADATA_BYTES:
                raise ValueError(f"its metadata has {described.file_size} bytes")
            metadata = json.loads(archive.read(described))
        return PackageFacts(
            expected=json.loads(metadata[FACTS]),
            architecture=metadata["AOTI_MACHINE"],
            instructions=tuple(metadata.get("AOTI_CPU_ISA", "").split()),
            device=metadata["AOTI_DEVICE_KEY"],
            library_bytes=library.file_size,
        )
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(
            f"{path} is no package that edgevit compiled: {type(error).__name__}: {error}", fix="convert again"
        ) from error


def contradictions(facts: PackageFacts, manifest: Manifest) -> Iterator[str]:
    """Each way in which the package contradicts its manifest."""
    ends = {"inputs": manifest.inputs, "outputs": manifest.outputs}
    declared = {
        **{kind: [[spec.name, list(spec.shape[1:]), spec.dtype] for spec in specs] for kind, specs in ends.items()},
        "precision": manifest.precision.value,
        "accelerator": manifest.accelerator,
    }
    for key, said in declared.items():
        if facts.expected.get(key) != said:
            yield f"has {key} {facts.expected.get(key)}, its manifest says {said}"
    if facts.device != manifest.accelerator:
        yield f"is compiled for {facts.device}, its manifest says {manifest.accelerator}"


def missing_here(facts: PackageFacts) -> list[str]:
    """What the code needs and this machine lacks: to run it anyway would kill the process."""
    import torch

    if facts.architecture != platform.machine():
        return [facts.architecture]
    here = torch.cpu.get_capabilities()
    return [name for name in facts.instructions if name in _CAPABILITIES and not here.get(_CAPABILITIES[name], False)]
