"""An .mlpackage ready to run: in Core ML itself, or in the reference interpreter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.compat.coremltools import open_coremltools
from edgevit.contract.manifest import INTERPRETER_RUNTIME
from edgevit.errors import UsageError
from edgevit.spec import Precision
from edgevit.targets.base import INTERPRETER

if TYPE_CHECKING:
    import numpy as np

    from edgevit.contract.manifest import Manifest


class CoreMLSession:
    """An .mlpackage in Core ML itself (macOS)."""

    def __init__(self, path: Path, manifest: Manifest, accelerator: str) -> None:
        ct = open_coremltools()
        units = {"cpu": ct.ComputeUnit.CPU_ONLY, "gpu": ct.ComputeUnit.CPU_AND_GPU, "ane": ct.ComputeUnit.CPU_AND_NE}
        if accelerator not in units:
            raise UsageError(f"coreml runs on {', '.join(units)}, not on {accelerator!r}", fix="use --accelerator")
        self.runtime = f"coreml {_macos_version()}"
        self.accelerator = accelerator
        self.threads = None  # Core ML chooses and does not report it
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        # A copy: opening a package as a model rewrites its manifest, whose hash ours holds.
        self._folder = tempfile.TemporaryDirectory(prefix="edgevit-coreml-")
        copy = shutil.copytree(path, Path(self._folder.name) / path.name)
        self._model = ct.models.MLModel(str(copy), compute_units=units[accelerator])

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; arrays as the manifest declares them by input name, copies by output name."""
        results = self._model.predict(
            {spec.name: _image(inputs[spec.name]) if spec.color else inputs[spec.name] for spec in self._inputs}
        )
        return {spec.name: results[spec.name].copy() for spec in self._outputs}

    def close(self) -> None:
        """Free the compiled model and its copy."""
        del self._model
        self._folder.cleanup()


class InterpreterSession:
    """An .mlpackage in edgevit's reference interpreter: fp16 programs with every result rounded to fp16."""

    accelerator = INTERPRETER
    threads = None

    def __init__(self, path: Path, manifest: Manifest) -> None:
        from edgevit.mil import Interpreter
        from edgevit.mil.shapes import shape_check

        mode = "fp32" if manifest.precision is Precision.FP32 else "declared"
        self.runtime = f"{INTERPRETER_RUNTIME}, {mode}"
        self._outputs = manifest.outputs
        self._interpreter = Interpreter(path, mode=mode)
        self._observe = shape_check(self._interpreter.package, self._interpreter.function)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One evaluation; arrays as the manifest declares them by input name, copies by output name."""
        results = self._interpreter.predict(dict(inputs), observe=self._observe)
        return {spec.name: results[spec.name].astype(spec.dtype) for spec in self._outputs}

    def close(self) -> None:
        """Free the weights."""
        del self._interpreter


def _image(array: np.ndarray) -> Any:
    """uint8 (1, H, W, 3) as the PIL image that Core ML's Python interface wants."""
    from PIL import Image

    return Image.fromarray(array[0])


def _macos_version() -> str:
    import platform

    return platform.mac_ver()[0] or "unknown"
