"""An artifact on disk: opened with its hashes checked, run on images or arrays in its own runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.contract.manifest import FILE_NAME, LITTER, FileEntry, Golden, Manifest, level_name, read_manifest
from edgevit.data.layout import to_layout
from edgevit.errors import ContractError, UsageError
from edgevit.infra.files import sha256_file
from edgevit.spec import Layout, Task, TensorSpec
from edgevit.targets.registry import get_converter

if TYPE_CHECKING:
    import numpy as np

    from edgevit.data.postprocess import Prediction
    from edgevit.targets.base import Session


RESULTS_FOLDER = "results"  # beside the artifacts
_FIX = "convert again, or copy the whole folder again"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A converted model: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The name in the manifest, which is that of the folder."""
        return self.manifest.name

    @property
    def manifest_sha256(self) -> str:
        """Identity of this very artifact: the hash of the file that holds all other hashes."""
        return sha256_file(self.path / FILE_NAME)

    @property
    def labels(self) -> tuple[str, ...]:
        """The manifest's labels, or "class 0", "class 1", ... where the checkpoint had none."""
        return self.manifest.labels or tuple(f"class {i}" for i in range(self.manifest.model.num_classes or 0))

    @property
    def remake(self) -> str:
        """How to make it again: the command, as far as the manifest knows its arguments."""
        from edgevit.models import iter_specs

        manifest, weights = self.manifest, self.manifest.provenance.weights
        known = manifest.model.name in {spec.name for spec in iter_specs()}
        if weights.source == "memory":
            return f"convert the module again with edgevit.convert, target {manifest.target!r}"
        words = ["edgevit convert", manifest.model.name if known else f"FILE.py:{manifest.model.name}"]
        if weights.source == "checkpoint":
            words += ["--weights", weights.file or "CHECKPOINT"]
        else:
            words += [f"--classes {manifest.model.num_classes}"]
            words += [f"--input-size {manifest.input_size}"] if manifest.input_size else []
        words += ["--target", manifest.target, "--precision", str(manifest.precision)]
        defaults = get_converter(manifest.target).Options()
        options = manifest.provenance.options.items()
        words += [f"-O {name}={value}" for name, value in options if value != getattr(defaults, name, None)]
        return f"make it again: {' '.join(words)}"

    def open(self, accelerator: str | None = None, threads: int = 1) -> Session:
        """Load in the target's own runtime, by default on the accelerator that the artifact was made for.

        Raises NotExecutable where this machine has none.
        """
        chosen = accelerator or self.manifest.accelerator
        return get_converter(self.manifest.target).open(self.path, self.manifest, chosen, threads)

    def require_batch(self, batch: int) -> None:
        """Raise UsageError if the artifact cannot take so many images at once."""
        if batch < 1 or (batch > 1 and not self.manifest.dynamic_batch):
            takes = "takes one image at a time" if batch > 1 else "cannot take no images"
            raise UsageError(f"{self.name} {takes}, not {batch}", fix="targets for servers take several at once")

    def golden(self, name: str | None = None) -> Golden:
        """A stored golden by name, the first one by default."""
        for golden in self.manifest.goldens:
            if name in (None, golden.name):
                return golden
        known = ", ".join(g.name for g in self.manifest.goldens) or "none"
        raise UsageError(f"{self.name} has no golden {name!r}", fix=f"its goldens: {known}")

    def golden_level(self, golden: Golden, level: str) -> np.ndarray:
        """One stored level of a golden: L0 and L1 uint8 (H, W, 3), L2 the input, L3 the expected output."""
        import numpy as np

        entry = golden.levels[level]
        data = (self.path / entry["file"]).read_bytes()
        try:
            return np.frombuffer(data, dtype=np.dtype(entry["dtype"]).newbyteorder("<")).reshape(entry["shape"])
        except ValueError as error:
            raise ContractError(
                f"{self.path / entry['file']} holds {len(data)} bytes, not {entry['dtype']} {tuple(entry['shape'])}",
                fix="convert again; the file was edited or cut off",
            ) from error

    def golden_input(self, name: str | None = None) -> dict[str, np.ndarray]:
        """The stored input tensors of a golden, by input name, in the artifact's own layout."""
        return self._golden_tensors(name, self.manifest.inputs, "L2")

    def golden_output(self, name: str | None = None) -> dict[str, np.ndarray]:
        """The stored output tensors of a golden, by output name, in the artifact's own layout."""
        return self._golden_tensors(name, self.manifest.outputs, "L3")

    def _golden_tensors(self, name: str | None, specs: tuple[TensorSpec, ...], level: str) -> dict[str, np.ndarray]:
        golden = self.golden(name)
        return {spec.name: self.golden_level(golden, level_name(level, i)) for i, spec in enumerate(specs)}

    def predict(self, image: Any, *, session: Session | None = None, top: int = 5) -> list[Prediction] | np.ndarray:
        """Run one image and decode the output as an app would.

        image: a path, a PIL image, uint8 pixels (H, W, 3), or a float32 tensor (1, 3, H, W) that is normalised
        already. Classification gives the `top` labels with probabilities; segmentation the mask, uint8 at the
        model's resolution. Raises UsageError for an artifact that no image goes into, or no classes come out of.
        """
        import numpy as np

        from edgevit.data import postprocess
        from edgevit.data.image_io import as_rgb
        from edgevit.data.preprocess import preprocess

        if self.manifest.model.task is Task.TENSOR:
            raise UsageError(f"{self.name} gives numbers, no classes", fix="run its session on tensors")
        if isinstance(image, np.ndarray) and image.ndim == 4:
            tensor = image
        else:
            tensor = preprocess(as_rgb(image), self.manifest.image_preprocess, Layout.NCHW)
        logits = self.run(tensor, session=session)
        if self.manifest.model.task is Task.SEGMENT:
            return postprocess.segment_mask(logits)
        return postprocess.classify(logits, self.labels, top)

    def run(self, tensor: np.ndarray, *, session: Session | None = None, batch: int = 1) -> np.ndarray:
        """Normalised float32 images (N, 3, H, W) to logits (N, ...) in the model's own NCHW form, `batch` at a time.

        Raises UsageError for a batch that the artifact does not take.
        """
        import numpy as np

        self.require_batch(batch)
        tensor = np.asarray(tensor)
        opened = session or self.open()
        try:
            parts = [self._run_batch(opened, tensor[i : i + batch]) for i in range(0, len(tensor), batch)]
            return np.concatenate(parts)
        finally:
            if session is None:
                opened.close()

    def native_input(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """Normalised float32 images (N, 3, H, W) as the file takes them, by input name: its layout, or pixels.

        Raises UsageError for another size than the artifact's.
        """
        source = self.manifest.inputs[0]
        if source.color:
            from edgevit.data.preprocess import normalize_table, to_pixels

            settings = self.manifest.image_preprocess
            table = normalize_table(settings.mean, settings.std)
            native = to_pixels(tensor, table)[None]
        else:
            native = to_layout(tensor.astype(source.dtype, copy=False), Layout.NCHW, source.layout)
        if native.shape != (len(tensor), *source.shape[1:]):
            raise UsageError(
                f"{self.name} takes {source.shape} {source.layout}, not {native.shape}",
                fix="give an image, or a normalised tensor (1, 3, height, width)",
            )
        return {source.name: native}

    def _run_batch(self, session: Session, tensor: np.ndarray) -> np.ndarray:
        result = self.manifest.outputs[0]
        return to_layout(session.run(self.native_input(tensor))[result.name], result.layout, model_layout(result))


def model_layout(spec: TensorSpec) -> Layout:
    """The layout that the training form has where an artifact's tensor is `spec`."""
    return Layout.NCHW if spec.layout is Layout.NHWC else spec.layout


def opened(artifact: Artifact | str | Path) -> Artifact:
    """An artifact that is open already as it is, or the folder at a path by `load_artifact`."""
    return artifact if isinstance(artifact, Artifact) else load_artifact(artifact)


def results_folder(artifact: Path, out: str | Path | None = None) -> Path:
    """Where results about an artifact are written: `out`, by default results/ beside the artifact."""
    return artifact.resolve().parent / RESULTS_FOLDER if out is None else Path(out)


def load_artifact(path: str | Path) -> Artifact:
    """Open an artifact folder and check every file against the manifest's hashes.

    Raises ContractError for a missing, changed or additional file.
    """
    folder = Path(path)
    artifact = Artifact(folder, read_manifest(folder))
    check_files(folder, artifact.manifest.files)
    return artifact


def file_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Path, hash and size of every file in the folder but the manifest itself."""
    return tuple(
        FileEntry(path, sha256_file(folder / path), (folder / path).stat().st_size)
        for path in _files_of(folder)
        if path != FILE_NAME
    )


def check_files(folder: Path, entries: tuple[FileEntry, ...]) -> None:
    """Raise ContractError unless the folder holds exactly these files with these hashes."""
    present = set(_files_of(folder))
    for entry in entries:
        path = folder / entry.path
        if entry.path not in present:
            raise ContractError(f"{path} is missing", fix=_FIX)
        size_bytes = path.stat().st_size
        if size_bytes != entry.size_bytes:
            raise ContractError(f"{path} has {size_bytes} bytes, its manifest says {entry.size_bytes}", fix=_FIX)
        if sha256_file(path) != entry.sha256:
            raise ContractError(f"{path} does not match the hash in its manifest", fix=_FIX)
    if strangers := sorted(present - {entry.path for entry in entries} - {FILE_NAME}):
        raise ContractError(
            f"{folder} holds files that its manifest does not know: {', '.join(strangers[:3])}", fix=_FIX
        )


def _files_of(folder: Path) -> list[str]:
    """All files below an artifact folder but the litter of file managers, in byte order of their POSIX paths.

    Raises ContractError for a link or a special file: what they lead to may change, or never end.
    """
    found = []
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                raise ContractError(
                    f"{path} is a symbolic link", fix="copy the files themselves; artifacts hold no links"
                )
            if name in files and name not in LITTER:
                if not path.is_file():
                    raise ContractError(f"{path} is no regular file", fix=_FIX)
                found.append(path.relative_to(folder).as_posix())
    return sorted(found, key=str.encode)
