"""`quantize`: a float checkpoint and some images become an int8 checkpoint, without training."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit._version import __version__
from edgevit.checkpoints.checkpoint import save_checkpoint
from edgevit.checkpoints.model_source import LoadedModel, load_model
from edgevit.data.corrupt_images import readable, spread, spread_indices
from edgevit.data.datasets import LabelledDataset, open_splits, require_task
from edgevit.data.metrics import describe_scores, score
from edgevit.data.preprocess import normalize_table
from edgevit.errors import UsageError
from edgevit.log import stage
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.mixed_precision import Budgeted, LayerCost, fit_budget
from edgevit.quantization.quantized_model import Int8Network, prepare
from edgevit.spec import Task
from edgevit.training.trainer import PreprocessedDataset

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgevit.spec import ModelSpec

log = logging.getLogger(__name__)

SAMPLES = 256
_BATCH = 64
_FEW = 16  # images below which ranges are guesses
_JUDGES = 512  # held-out images for the budget: a fifth of a percentage point each


@dataclass(frozen=True, slots=True)
class Quantized:
    """The int8 checkpoint that was written, with counts and scores.

    qparams: quantized tensors; weighted: convolutions and linear layers in int8; float_fallback: operations kept in
    float, by module. scores_float, scores_int8 (0 to 1): of the float and of the int8 network on the test images, the
    task's metric first. kept_in_float: layers kept in float by the accuracy budget.
    """

    checkpoint: Path
    samples: int
    qparams: int
    weighted: int
    float_fallback: dict[str, int]
    scores_float: dict[str, float]
    scores_int8: dict[str, float]
    kept_in_float: tuple[LayerCost, ...] = ()


def quantize(
    model: str,
    *,
    weights: str | Path,
    data: str | Path | tuple[LabelledDataset, LabelledDataset],
    out: str | Path,
    samples: int = SAMPLES,
    input_size: int | None = None,
    max_drop: float | None = None,
) -> Quantized:
    """Find the quantization parameters of a trained network by NNCF's PTQ, and write an int8 checkpoint.

    model: a name of `edgevit list` or "file.py:factory". weights: its float checkpoint. data: "digits", "photos",
    "tiles", a folder (see `open_dataset`), or a training and a test set; up to `samples` of the training images set the
    ranges, the test images score float and int8 network. out: the int8 checkpoint; it holds both networks, and
    `convert` with precision "int8" takes it to every target with these very quantization parameters. input_size: pixels
    of each side, by default the checkpoint's.
    max_drop: percentage points of top-1, or of mIoU, that int8 may cost on training images which set no ranges; where
    it costs more, the layers that cost most are kept in float, in every target.
    Raises UsageError for weights and data that do not fit, QuantizationError where none can be found, StorageError.
    """
    source = load_model(model, weights=weights, input_size=input_size)
    training, test = open_splits(data)
    require_classes(source, training)
    calibration, test = readable(spread(training, samples)), readable(test)
    network = post_training(source, calibration, samples)
    budgeted = None
    if max_drop is not None:
        budgeted = within_budget(source, network, training, samples, max_drop)
        network = budgeted.network
    with stage("score", model=source.spec.name) as running:
        images = PreprocessedDataset(test, source.spec)
        forms = source.module, network.reference(batched=True)
        floats, int8 = (scores_of(form, images) for form in forms)
        running.result = f"float {describe_scores(floats)}; int8 {describe_scores(int8)} on {len(test)} images"
    facts: dict[str, Any] = {"method": "ptq", "data": calibration.name, "samples": len(calibration)}
    metric = next(iter(int8))
    facts |= {"metric": metric, "score_float": floats[metric], "score": int8[metric], **budget_facts(budgeted)}
    save_quantized(out, source, network, facts)
    annotation = network.annotation()
    return Quantized(
        Path(out),
        facts["samples"],
        len(annotation.quantized),
        len(annotation.weighted),
        annotation.float_fallback(),
        floats,
        int8,
        budgeted.kept_in_float if budgeted else (),
    )


def post_training(source: LoadedModel, images: LabelledDataset, samples: int) -> Int8Network:
    """Deploy the network of a source and calibrate it on up to `samples` images, evenly spread over the set."""
    images = spread(images, samples)
    count = len(images)
    if count < _FEW:
        log.warning("WARNING   only %d calibration images: ranges are guesses below %d", count, _FEW)
    with stage("deploy", model=source.spec.name) as running:
        deployed, steps = prepare(source.module, source.spec)
        running.result = ", ".join(f"{step.name} x{step.changes}" for step in steps)
    with stage("calibrate", model=source.spec.name, images=count) as running:
        chosen = PreprocessedDataset(images, source.spec)
        tensors = [chosen[i][0][None] for i in range(count)]
        _warn_of_constants(tensors)
        corrected, table = calibrate(deployed, tensors, _input_range(source.spec))
        running.result = f"{len(table.activations)} tensors and {len(table.weights)} weights quantized"
    return Int8Network.settled(corrected, table, steps)


def within_budget(
    source: LoadedModel, network: Int8Network, images: LabelledDataset, samples: int, max_drop: float
) -> Budgeted:
    """`fit_budget` on training images other than the `samples` that set the ranges."""
    used = set(spread_indices(len(images), samples))
    unused = [index for index in range(len(images)) if index not in used]
    if len(unused) < _FEW:
        log.warning("WARNING   %d images set ranges and judge them too: there are no others", len(images))
        unused = sorted(used)
    judges = readable(spread(images.subset(unused), _JUDGES))
    if source.spec.task is Task.CLASSIFY:
        _warn_of_coarse_steps(len(judges), max_drop)
    with stage("budget", model=source.spec.name, max_drop=max_drop, images=len(judges)) as running:
        chosen = PreprocessedDataset(judges, source.spec)
        tensors, targets = zip(*(chosen[index] for index in range(len(judges))), strict=True)
        budgeted = fit_budget(network, tensors, targets, max_drop)
        running.result = budgeted.summary()
    return budgeted


def budget_facts(budgeted: Budgeted | None) -> dict[str, Any]:
    """What a checkpoint's metadata holds about the layers kept in float."""
    if budgeted is None:
        return {}
    kept = [dataclasses.asdict(cost) for cost in budgeted.kept_in_float]
    return {"kept_in_float": kept, "budget": budgeted.summary()}


def _warn_of_coarse_steps(count: int, max_drop: float) -> None:
    """Warn where one image of `count` is worth more percentage points than the drop to be measured."""
    if 0 < max_drop < 100 / count:
        log.warning(
            "WARNING   %d images judge in steps of %.1f points: a drop of %g takes %d; give more training images",
            *(count, 100 / count, max_drop, math.ceil(100 / max_drop)),
        )


def _warn_of_constants(images: list[Tensor]) -> None:
    """Warn of images (1, 3, S, S) of a single colour: they calibrate nothing."""
    constant = sum(bool((image.amax((2, 3)) == image.amin((2, 3))).all()) for image in images)
    if constant:
        log.warning("WARNING   %d of %d calibration images have one colour alone", constant, len(images))


def _input_range(spec: ModelSpec) -> tuple[float, float]:
    """The least and the largest value that preprocessing gives a pixel, of all channels."""
    table = normalize_table(spec.preprocess.mean, spec.preprocess.std)
    return float(table.min()), float(table.max())


def require_classes(source: LoadedModel, images: LabelledDataset) -> None:
    """Raise UsageError where the data are for another task, or have other classes, than the network."""
    require_task(source.spec.task, images, source.spec.name)
    if len(images.labels) != source.spec.num_classes:
        raise UsageError(
            f"{source.spec.name} has {source.spec.num_classes} classes, {images.name} has {len(images.labels)}",
            fix="give the data set that the weights were trained on",
        )


def save_quantized(out: str | Path, source: LoadedModel, network: Int8Network, facts: dict[str, Any]) -> None:
    """Write an int8 checkpoint: the float network, the int8 one, and `facts` for its metadata. Raises StorageError."""
    quantization = {**facts, "edgevit_version": __version__}
    metadata = dataclasses.replace(source.metadata, quantization=quantization)
    save_checkpoint(out, source.module, metadata, network.checkpoint_part())


def scores_of(module: nn.Module, images: PreprocessedDataset) -> dict[str, float]:
    """The scores of a network in PyTorch on labelled images."""
    import torch
    from torch.utils.data import DataLoader

    module.eval()
    outputs, target = [], []
    with torch.no_grad():
        for tensors, targets in DataLoader(images, _BATCH):
            outputs.append(module(tensors))
            target.append(targets)
    return score(torch.cat(outputs).numpy(), torch.cat(target).numpy())
