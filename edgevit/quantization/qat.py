"""`qat`: quantization-aware training, from a float or an int8 checkpoint to an int8 checkpoint."""

from __future__ import annotations

import time
from pathlib import Path

from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.checkpoints.model_source import load_model
from edgevit.data.corrupt_images import readable
from edgevit.data.datasets import LabelledDataset, open_splits
from edgevit.data.metrics import describe_scores
from edgevit.log import is_first_process, stage
from edgevit.quantization.loading import quantized_network
from edgevit.quantization.ptq import SAMPLES, budget_facts, post_training, save_quantized, within_budget
from edgevit.quantization.qat_model import finished, trainable
from edgevit.training.recipe import fine_tuning
from edgevit.training.trainer import (
    TrainingResult,
    check_sets,
    describe_training,
    fit,
    progress_of,
    seeded,
    threads_of,
    training_result,
)


def qat(
    model: str,
    *,
    weights: str | Path,
    data: str | Path | tuple[LabelledDataset, LabelledDataset],
    out: str | Path,
    epochs: int | None = None,
    learning_rate: float | None = None,
    samples: int = SAMPLES,
    threads: int | None = None,
    devices: int = 1,
    logs: str | Path | None = None,
    resume: bool = False,
    max_drop: float | None = None,
) -> TrainingResult:
    """Train a network with NNCF's quantizers at its activations and weights, and write an int8 checkpoint.

    It learns the outputs of its float network (distillation): int8 shall lose nothing, and need not learn anything new.

    model: a name of `edgevit list` or "file.py:factory". weights: a float checkpoint, whose ranges are first set by up
    to `samples` training images, or an int8 one to go on from. data: "digits", "photos", "tiles", a folder (see
    `open_dataset`), or a training and a test set. out: the int8 checkpoint. Epochs and the peak learning rate are those
    of the recipe "qat" unless given; threads, devices and logs as in `train`; augmentation is as in the float training
    where the checkpoint knows it. The scores are those of the int8 network, which `convert` with precision "int8" takes
    to every target unchanged. A killed run goes on with `resume` and the same arguments, and ends with the same weights
    on a CPU. max_drop: percentage points of top-1, or of mIoU, that the int8 network may lose on training images; where
    it loses more, the layers that cost most are kept in float, with their quantized weights.
    Raises UsageError for weights and data that do not fit, QuantizationError where no range can be found, EdgevitError
    when training diverges; then `out` is as it was.
    """
    start = time.perf_counter()
    checkpoint = read_checkpoint(weights)
    source = load_model(model, weights=checkpoint, float_part=True)
    train_set, test_set = map(readable, open_splits(data))
    check_sets(source.spec, train_set, test_set)
    recipe = fine_tuning("qat", source.metadata.training, epochs, learning_rate)
    network = post_training(source, train_set, samples) if checkpoint.int8 is None else quantized_network(checkpoint)
    with stage("qat", model=source.spec.name, data=data) as running, threads_of(threads), seeded(recipe.seed):
        module = trainable(network)
        curve = fit(
            module,
            source.spec,
            train_set,
            test_set,
            recipe,
            progress=progress_of(out),
            resume=resume,
            teacher=source.module,
            devices=devices,
            logs=logs,
        )
        network = finished(module, network)
        running.result = f"{describe_scores(curve[-1].scores)} in int8 on {len(test_set)} held-out images"
    facts = {"method": "qat", **describe_training(train_set, recipe, curve)}
    if max_drop is not None:
        budgeted = within_budget(source, network, train_set, samples, max_drop)
        network = budgeted.network
        facts |= budget_facts(budgeted)
    if is_first_process():
        save_quantized(out, source, network, facts)
        progress_of(out).unlink(missing_ok=True)
    return training_result(out, recipe, time.perf_counter() - start, curve)
