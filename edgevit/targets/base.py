"""Plug-in interface of the targets: a Converter makes a model file, a Session runs one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgevit.errors import DeviceError, ParityError, UsageError
from edgevit.spec import Layout, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from edgevit.contract.manifest import Classifier, Lowering, Manifest, Tolerance
    from edgevit.export.program import Program
    from edgevit.quantization.model_qparams import ModelQParams
    from edgevit.spec import Precision, Tier

# Not an accelerator: a reference interpreter evaluates the file. Its outputs count, its latency does not.
INTERPRETER = "interpreter"


class NotExecutable(DeviceError):
    """This machine has no runtime for the artifact's format; static checks are all that can be done."""


class NotSwitchable(DeviceError):
    """This runtime cannot be run under a setting that phones' builds of it have; the message has the reason."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a session needs to know of a model file: the part of a manifest that the file itself holds as well."""

    entry: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic_batch: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain data, for another process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ModelFile:
        """What `to_json` wrote."""
        tensors = {
            kind: tuple(
                TensorSpec(**spec | {"shape": tuple(spec["shape"]), "layout": Layout(spec["layout"])})
                for spec in document[kind]
            )
            for kind in ("inputs", "outputs")
        }
        return cls(**document | tensors)


@dataclass(frozen=True, slots=True)
class Converted:
    """What a converter wrote: the model file's name, its tensors as the file declares them, its lowering.

    compression: the form of weights that are stored in fewer bits than they are computed in, "" if none are;
    tolerance: replaces the bounds of its precision for such an artifact. accelerator: where it runs by default.
    """

    entry: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    lowering: Lowering
    classifier: Classifier | None = None
    compression: str = ""
    tolerance: Tolerance | None = None
    accelerator: str = "cpu"


@dataclass(frozen=True, slots=True)
class Audit:
    """How phones' builds of its runtime will treat a model file, found without running it.

    summary: one line of facts; faults: a line for everything that will go wrong there.
    """

    summary: str
    faults: tuple[str, ...] = ()

    def failure(self, name: str, fix: str) -> ParityError | None:
        """The faults as one error that names the file, None if there are none; fix: how to make it again."""
        if not self.faults:
            return None
        return ParityError(f"{name} is wrong on phones: {'; '.join(self.faults)}", fix=fix)


class Session(Protocol):
    """An artifact loaded on an accelerator. Arrays have the names, shapes, dtypes and layouts of the manifest.

    Where its batch is dynamic, the leading axis of every array may have any length, the same for all.
    """

    runtime: str  # name and version, "executorch 1.4.1"
    accelerator: str  # where it actually runs: "cpu"
    threads: int | None  # read back from the runtime, None if it does not report them

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; the returned arrays are the caller's to keep."""

    def close(self) -> None:
        """Free the runtime's memory; the session is unusable afterwards."""


def input_arrays(inputs: Mapping[str, np.ndarray], manifest: Manifest | ModelFile) -> list[np.ndarray]:
    """A session's inputs in the order of the manifest, contiguous and writable.

    Raises UsageError for a name that is missing or unknown, and for another shape or dtype than the manifest's.
    """
    import numpy as np

    known = {spec.name for spec in manifest.inputs}
    for name in sorted(set(inputs) - known):
        raise UsageError(f"no input {name!r}", fix=f"inputs: {', '.join(sorted(known))}")
    arrays = []
    for spec in manifest.inputs:
        if spec.name not in inputs:
            raise UsageError(f"no input {spec.name!r}", fix=f"given: {', '.join(inputs) or 'none'}")
        array = np.require(inputs[spec.name], requirements=["C", "W"])
        wanted = (max(1, *array.shape[:1]), *spec.shape[1:]) if manifest.dynamic_batch else spec.shape
        if array.shape != wanted or array.dtype != spec.dtype:
            shape = ("N", *spec.shape[1:]) if manifest.dynamic_batch else spec.shape
            said = f"({', '.join(map(str, shape))})"
            raise UsageError(
                f"input {spec.name!r} is {array.dtype} {array.shape}", fix=f"it must be {spec.dtype} {said}"
            )
        arrays.append(array)
    return arrays


def program_name(converter: Converter) -> str:
    """Which of the programs that `pipeline` writes a converter takes: "xnnpack", "server-batches"."""
    return f"{converter.kernels}-batches" if converter.dynamic_batch else converter.kernels


class Converter(Protocol):
    """One target: knows how to write, check and open one file format, and nothing else."""

    name: str  # "coreml"
    suffix: str  # ".mlpackage"
    kernels: str  # the kernel library it runs on, a table of deploy/costs.toml
    keeps_float32: bool  # whether its fp32 files compute in float32 wherever they run; a plug-in without the field: no
    tier: Tier | None  # the models that the target "all" converts to it; None: none
    ml_program: bool  # whether its files are ML Programs, which `edgevit.mil` can check and evaluate
    dynamic_batch: bool  # whether it takes, and its files are, programs for any number of images at once
    precisions: frozenset[Precision]
    extra: str  # the extra of edgevit that installs its libraries
    packages: tuple[str, ...]  # distributions it needs, for `edgevit doctor` and the manifest's tool versions
    runtime_modules: tuple[str, ...]  # what running (not converting) imports, so that memory can be told apart
    # Frozen dataclass of strings and booleans; the command line fills it from -O key=value. A field whose metadata
    # has "numeric" is at its default in the fp32 reference build, and in the artifact's name elsewhere;
    # one that says "named" is part of the name alone.
    Options: type
    # What phones' builds of the runtime do otherwise than the one here, one mapping of names to values for each way to
    # run a file that they have; none where there is no such difference. A plug-in without the field has none, and needs
    # neither `audit` nor `describe`, `switch` and `confirm`.
    settings: tuple[Mapping[str, str], ...]

    def convert(self, program: Program, options: Any, out_dir: Path) -> Converted:
        """Write the model file(s) into out_dir. Raises ConversionError naming every op it cannot take."""

    def check(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Compare the file with its manifest without running it: fact -> value. Raises ContractError."""

    def read_qparams(self, folder: Path, manifest: Manifest) -> ModelQParams:
        """The quantization parameters in the file itself, nothing taken from the manifest. Raises ContractError."""

    def audit(self, path: Path) -> Audit:
        """How those builds will treat a model file, whoever made it, without running it. Raises ContractError."""

    def describe(self, path: Path) -> ModelFile:
        """The tensors of a model file, whoever made it. Raises DeviceError if its runtime cannot load it."""

    def switch(self, settings: Mapping[str, str]) -> None:
        """Load and run under one of `settings` from now on, in this process. Raises NotSwitchable."""

    def confirm(self, settings: Mapping[str, str], path: Path) -> None:
        """Raise NotSwitchable unless the open model file was loaded under the settings, as the runtime reports."""

    def runs_here(self) -> str:
        """ "" if this machine can execute artifacts of this target, else why not."""

    def open(self, folder: Path, manifest: Manifest | ModelFile, accelerator: str = "cpu", threads: int = 1) -> Session:
        """Load for inference. Raises NotExecutable where the runtime does not exist, DeviceError if it fails."""

    def open_traced(self, folder: Path, manifest: Manifest, program: Program, nodes: Sequence[str]) -> Session:
        """Load so that a run also records the values of the program's `nodes`, by name and in the node's own shape.

        Integers where the node quantizes, float32 elsewhere; nodes without a value in the file are left out. program:
        what the artifact was converted from. Raises ContractError if the file shows that it was not.
        """
