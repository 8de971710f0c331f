"""`debug`: the layers of an artifact, ranked by their local error.

Local error: the layer's output against the reference operation's output on the same inputs. Accumulated error: the
layer's output against the output of the same layer in the reference. The reference is the network that the artifact
shall equal, which shows what a runtime computes differently, or of an int8 artifact the float network, which shows what
quantization costs and where.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.artifacts.artifact import Artifact, opened, results_folder
from edgevit.contract.plain_data import plain
from edgevit.contract.schema import VERSION
from edgevit.data.corrupt_images import spread_indices
from edgevit.data.datasets import LabelledDataset, open_dataset
from edgevit.data.preprocess import preprocess
from edgevit.errors import UsageError, unknown_name
from edgevit.infra.files import write_json
from edgevit.log import stage
from edgevit.spec import Layout, Precision
from edgevit.targets.registry import get_converter
from edgevit.verification.layer_values import Layer, ProgramTrace, layers_of
from edgevit.verification.reference_model import float_program_of, load_float, load_source, program_of

if TYPE_CHECKING:
    from edgevit.export.program import Program
    from edgevit.targets.base import Session

log = logging.getLogger(__name__)

SAMPLES = 16
REFERENCES = CHECKPOINT, FLOAT = "checkpoint", "float"  # networks to compare with
HEADER = (
    "layer", "operation", "local SNR", "accumulated SNR", "local max.", "accumulated max.", "local LSB mismatch",
    "LSB mismatch",
)  # fmt: skip
KIND_HEADER = ("operation", "layers", "local noise / signal, sum", "local LSB mismatch")


@dataclass(frozen=True, slots=True)
class ErrorSize:
    """The error of a layer's values against the reference.

    snr_db: None where they are equal. max_abs_error: in the layer's own unit. lsb_mismatch: the share of values that
    differ by more than half a quantization step (LSB), None for what is not quantized.
    """

    snr_db: float | None
    max_abs_error: float
    lsb_mismatch: float | None


@dataclass(frozen=True, slots=True)
class LayerError:
    """One layer: its local error, and the error accumulated up to it."""

    layer: Layer
    local: ErrorSize
    accumulated: ErrorSize

    @property
    def local_noise(self) -> float:
        """Local noise over signal, as powers."""
        return 0.0 if self.local.snr_db is None else 10 ** (-self.local.snr_db / 10)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """The layers of one artifact, those that add most error first; NAME.debug.json or NAME.float.debug.json.

    same_outputs: whether the copy with recorded intermediate activations is bit-exact with the artifact. unrecorded:
    layers that the file has no value for, by the names of their nodes. reference: CHECKPOINT or FLOAT.
    """

    artifact: str
    artifact_sha256: str
    runtime: str
    images: int
    source: str
    same_outputs: bool
    layers: tuple[LayerError, ...]
    unrecorded: tuple[str, ...]
    reference: str

    def kinds(self) -> list[tuple[str, list[LayerError]]]:
        """The layers by their operation, quantized or in float apart; most added noise first."""
        found: dict[str, list[LayerError]] = {}
        for error in self.layers:
            found.setdefault(f"{error.layer.operation}{'' if error.layer.qparams else ', float'}", []).append(error)
        return sorted(found.items(), key=lambda item: -sum(error.local_noise for error in item[1]))

    def summary(self) -> str:
        """One line for people."""
        adding = sum(error.local.snr_db is not None for error in self.layers)
        outputs = "bit-exact" if self.same_outputs else "NOT bit-exact"
        unrecorded = f", {len(self.unrecorded)} not recorded" if self.unrecorded else ""
        network = " to the float network's" if self.reference == FLOAT else ""
        return (
            f"{adding} of {len(self.layers)} layers add error{network}{unrecorded}; {self.images} images of "
            f"{self.source} in {self.runtime}, whose outputs are {outputs}"
        )

    def to_json(self) -> dict[str, Any]:
        """The document as written, schema edgevit.debug."""
        return {"schema": "edgevit.debug", "schema_version": VERSION, **plain(self), "summary": self.summary()}


def debug(
    artifact: Artifact | str | Path,
    *,
    weights: str | Path,
    data: str | Path | LabelledDataset | None = None,
    model: str | None = None,
    split: str = "test",
    samples: int = SAMPLES,
    reference: str = CHECKPOINT,
    out: str | Path | None = None,
) -> LayerReport:
    """Run an artifact beside its checkpoint, compare them layer by layer, and rank the layers by the error they add.

    The reference is the deployed network of the checkpoint in PyTorch: of an int8 artifact the int8 network in integer
    arithmetic, or where `reference` is "float" the float network that it was made from; else the float one. data:
    "digits", "photos" or a folder, of which up to `samples` images of `split` are taken, evenly spread; without it the
    artifact's own goldens. model: "file.py:factory" of a network that is not ours. The result also lands in `out`, by
    default results/ beside the artifact.
    Raises UsageError for weights that the artifact was not made from, and ContractError if its file is not what this
    version of edgevit makes of them.
    """
    one = opened(artifact)
    images, source = _images(one, data, split, samples)
    if reference not in REFERENCES:
        raise unknown_name("reference", reference, REFERENCES)
    if reference == FLOAT and one.manifest.precision is not Precision.INT8:
        raise UsageError(f"{one.name} is no int8 artifact", fix="leave --reference out: its network is a float one")
    program = program_of(one, load_source([one], weights, model))
    floats = None
    if reference == FLOAT:
        floats = float_program_of(one, load_float(one, weights, model))
    with stage("debug", artifact=one.name) as running:
        report = _compared(one, program, floats, images, source)
        running.result = report.summary()
    if not report.same_outputs:
        log.warning("WARNING   recording activations changed the outputs of %s: the ranking is of that copy", one.name)
    kind = "debug" if reference == CHECKPOINT else f"{reference}.debug"
    write_json(results_folder(one.path, out) / f"{one.name}.{kind}.json", report.to_json())
    return report


def row(error: LayerError) -> tuple[str, ...]:
    """The cells of HEADER; "-" for what is not quantized."""
    layer = error.layer
    return (
        f"{layer.place} {layer.node}".strip(),
        layer.operation,
        _decibels(error.local),
        _decibels(error.accumulated),
        f"{error.local.max_abs_error:.2g}",
        f"{error.accumulated.max_abs_error:.2g}",
        _share(error.local),
        _share(error.accumulated),
    )


def kind_row(kind: tuple[str, list[LayerError]]) -> tuple[str, ...]:
    """The cells of KIND_HEADER."""
    name, errors = kind
    shares = [error.local.lsb_mismatch for error in errors if error.local.lsb_mismatch is not None]
    steps = f"{100 * sum(shares) / len(shares):.3f} %" if shares else "-"
    return name, str(len(errors)), f"{sum(error.local_noise for error in errors):.1e}", steps


def _decibels(size: ErrorSize) -> str:
    return "equal" if size.snr_db is None else f"{size.snr_db:.1f} dB"


def _share(size: ErrorSize) -> str:
    return "-" if size.lsb_mismatch is None else f"{100 * size.lsb_mismatch:.3f} %"


def _images(
    artifact: Artifact, data: str | Path | LabelledDataset | None, split: str, samples: int
) -> tuple[list[np.ndarray], str]:
    """Normalised images (1, 3, H, W), and where they are from."""
    manifest = artifact.manifest
    if data is None:
        images = (artifact.golden_level(golden, "L0") for golden in manifest.goldens)
        return [preprocess(image, manifest.image_preprocess, Layout.NCHW) for image in images], "its goldens"
    dataset = open_dataset(data, split)
    source = dataset.images
    chosen = spread_indices(len(source), samples)
    if not chosen:
        raise UsageError("no images to compare layers on", fix="give --samples 1 or more")
    name = dataset.name if isinstance(data, LabelledDataset) else str(data)
    return [preprocess(source[index], manifest.image_preprocess, Layout.NCHW) for index in chosen], name


def _compared(
    artifact: Artifact, program: Program, floats: Program | None, images: list[np.ndarray], source: str
) -> LayerReport:
    """floats: the program to compare with instead of the artifact's own."""
    manifest, layers = artifact.manifest, layers_of(program)
    reference = ProgramTrace(program) if floats is None else ProgramTrace(floats, layers)
    converter = get_converter(manifest.target)
    traced = converter.open_traced(artifact.path, manifest, program, [layer.node for layer in layers])
    try:
        plain = converter.open(artifact.path, manifest, traced.accelerator)
        try:
            tallies, same = _tallied(artifact, reference, layers, (traced, plain), images)
        finally:
            plain.close()
    finally:
        traced.close()
    errors = [LayerError(layer, *tallies[layer.node].sizes()) for layer in layers if layer.node in tallies]
    return LayerReport(
        artifact.name,
        artifact.manifest_sha256,
        traced.runtime,
        len(images),
        source,
        same,
        tuple(sorted(errors, key=lambda error: -error.local_noise)),
        tuple(layer.node for layer in layers if layer.node not in tallies),
        CHECKPOINT if floats is None else FLOAT,
    )


def _tallied(
    artifact: Artifact,
    reference: ProgramTrace,
    layers: tuple[Layer, ...],
    sessions: tuple[Session, Session],
    images: list[np.ndarray],
) -> tuple[dict[str, _Tally], bool]:
    """The layers that have a value in the artifact, by node; whether both sessions always gave the same outputs."""
    computed = artifact.manifest.outputs[0]
    tallies: dict[str, _Tally] = {}
    same = True
    for image in images:
        inputs = artifact.native_input(image)
        values, outputs = (session.run(inputs) for session in sessions)
        same &= np.array_equal(values[computed.name], outputs[computed.name])
        recorded = {layer.node: values[layer.node] for layer in layers if layer.node in values}
        wanted, made = reference.run(image), reference.follow(image, recorded)
        for layer in layers:
            if layer.node in recorded:
                tally = tallies.setdefault(layer.node, _Tally(layer))
                tally.add(recorded[layer.node], wanted[layer.node], made[layer.node])
    return tallies, same


class _Tally:
    """Sums over images for one layer: first the local error, then the accumulated one."""

    def __init__(self, layer: Layer) -> None:
        self._qparams = layer.qparams
        self._signal = self._values = 0.0
        self._noise, self._largest, self._steps = np.zeros(2), np.zeros(2), np.zeros(2)

    def add(self, recorded: np.ndarray, wanted: np.ndarray, made: np.ndarray) -> None:
        """One image: the artifact's output, the reference's, and the reference operation's on the artifact's inputs."""
        value, target, step = map(self._real, (recorded, wanted, made))
        errors = np.stack([(value - step).ravel(), (value - target).ravel()])
        self._signal += float(np.square(target).sum())
        self._values += value.size
        self._noise += np.square(errors).sum(axis=1)
        self._largest = np.maximum(self._largest, np.abs(errors).max(axis=1))
        if self._qparams is not None:
            self._steps += (np.abs(errors) > self._qparams.scale / 2).sum(axis=1)

    def sizes(self) -> Iterator[ErrorSize]:
        """The local error, then the accumulated one."""
        for noise, largest, steps in zip(self._noise, self._largest, self._steps, strict=True):
            # A layer of zeros has no signal: any error there gets the lowest SNR.
            snr = None if noise == 0 else float(10 * np.log10(max(self._signal, 1e-30) / noise))
            yield ErrorSize(snr, float(largest), float(steps / self._values) if self._qparams else None)

    def _real(self, value: np.ndarray) -> np.ndarray:
        """Dequantized, in float64; the float network has float values for quantized layers, too."""
        if value.dtype != np.int8 or self._qparams is None:
            return value.astype(np.float64)
        return self._qparams.dequantize(value)
