"""Train one model on one set of images and write its checkpoint: the first stage of the pipeline."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgevit._version import __version__
from edgevit.checkpoints.checkpoint import load_weights, save_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.checkpoints.model_source import open_spec, spec_of, state_digest
from edgevit.data.corrupt_images import readable
from edgevit.data.datasets import LabelledDataset, open_splits, require_task
from edgevit.data.metrics import describe_scores
from edgevit.data.preprocess import preprocess
from edgevit.errors import UsageError, unknown_name
from edgevit.log import is_first_process, stage
from edgevit.spec import Layout, ModelSpec, Task
from edgevit.training.average import WeightAverage
from edgevit.training.bar import EpochBar
from edgevit.training.distributed import Shuffled, own_batch, placement, share_of
from edgevit.training.logs import open_logs
from edgevit.training.module import Classifier, EpochResult, Learner
from edgevit.training.progress import KeepProgress
from edgevit.training.recipe import Recipe, adjusted
from edgevit.training.recipe_file import open_recipe
from edgevit.training.segmentation import Segmenter
from edgevit.training.teacher import open_teacher

log = logging.getLogger(__name__)

_LightningPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
_AMP: dict[str, _LightningPrecision] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}
_LEARNERS: dict[Task, Callable[[nn.Module, Recipe, int, nn.Module | None], Learner]] = {
    Task.CLASSIFY: Classifier,
    Task.SEGMENT: Segmenter,
}
_KEEP_BYTES = 512 << 20  # preprocessed sets up to this size stay in memory


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run came to: score (0 to 1) by metric is that of the last epoch, whose weights the checkpoint holds."""

    checkpoint: Path
    metric: str
    score: float
    epochs: int
    seconds: float
    curve: tuple[EpochResult, ...]


def train(
    model: str | nn.Module,
    *,
    data: str | Path | tuple[LabelledDataset, LabelledDataset],
    out: str | Path,
    recipe: str | Path | Recipe = "digits",
    epochs: int | None = None,
    learning_rate: float | None = None,
    input_size: int | None = None,
    weights: str | Path | None = None,
    teacher: str | nn.Module | None = None,
    teacher_weights: str | Path | None = None,
    amp: str | None = None,
    threads: int | None = None,
    devices: int = 1,
    logs: str | Path | None = None,
    resume: bool = False,
    spec: ModelSpec | None = None,
) -> TrainingResult:
    """Train a model on labelled images and write its checkpoint, which knows its labels, size and preprocessing.

    model: a name of `edgevit list`, "file.py:factory", or a module (with `spec` unless create_model made it), which is
    trained from a copy of its weights. data: "digits", "photos", "tiles", a folder (see `open_dataset`), or a training
    and a test set. recipe: the name of one of `RECIPES`, a .toml file, or a Recipe; epochs and learning_rate, the peak,
    stand over its own. input_size: pixels of each side, by default the model's own. weights: a checkpoint to start
    from, with a new head where its class count differs; without it a named model starts from random weights.
    teacher: a network for the same classes and images, whose outputs are learned as the recipe's distillation sets; a
    name or "file.py:factory" comes with teacher_weights. amp: "bf16" or, on GPUs, "fp16" for mixed precision. threads:
    CPU threads, by default all cores. devices: GPUs, or processes on the CPU, that share each batch; Lightning starts
    the calling program once more for each, and torchrun's processes are taken as they are. logs: a folder for
    metrics.csv and TensorBoard, by default none. resume: go on with a run that was killed, given the same arguments;
    until a run ends its progress lies beside `out`. The same seed, machine and thread count give the same weights on a
    CPU.
    Raises UsageError for arguments, images and weights that do not fit, EdgevitError when training diverges and
    StorageError; then `out` is as it was.
    """
    if isinstance(teacher, str) != (teacher_weights is not None):
        raise UsageError(
            "a teacher and its weights belong together",
            fix="give both --teacher and --teacher-weights (teacher and teacher_weights in Python), or neither",
        )
    chosen = adjusted(recipe if isinstance(recipe, Recipe) else open_recipe(recipe), epochs, learning_rate)
    train_set, test_set = map(readable, open_splits(data))
    described = _spec_to_train(model, spec, len(train_set.labels), input_size)
    network = None if isinstance(teacher, str) else teacher
    if isinstance(teacher, str) and teacher_weights is not None:
        network = open_teacher(teacher, teacher_weights, described, train_set.labels)
    with stage("train", model=described.name, data=train_set.name, recipe=chosen.name) as running:
        result = train_network(
            described, train_set, test_set, chosen, out, weights=weights, teacher=network, threads=threads,
            devices=devices, amp=amp, logs=logs, resume=resume,
        )  # fmt: skip
        running.result = f"{describe_scores(result.curve[-1].scores)} on {len(test_set)} held-out images"
    return result


def _spec_to_train(
    model: str | nn.Module, spec: ModelSpec | None, num_classes: int, input_size: int | None
) -> ModelSpec:
    """The spec whose `build` gives the network to train: a module is there already, and is copied."""
    if isinstance(model, str):
        return open_spec(model, num_classes, input_size)
    described = spec_of(model, spec)
    if input_size is not None:
        described = described.for_task(input_size=input_size)
    return dataclasses.replace(described, build=lambda classes, size: copy.deepcopy(model).train())


def train_network(
    spec: ModelSpec,
    train_set: LabelledDataset,
    test_set: LabelledDataset,
    recipe: Recipe,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    teacher: nn.Module | None = None,
    threads: int | None = None,
    devices: int = 1,
    amp: str | None = None,
    logs: str | Path | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train spec's model, score it on the test set after each epoch, and write the checkpoint `out`.

    spec already has the set's class count (`ModelSpec.for_task`). The rest is as in `train`, whose names and paths are
    open here. Raises UsageError for sets, weights or progress that do not fit, EdgevitError when training diverges and
    StorageError; then `out` is as it was.
    """
    check_sets(spec, train_set, test_set)
    start = time.perf_counter()
    with threads_of(threads), seeded(recipe.seed):
        model = spec.instantiate()
        if weights is not None:
            load_weights(model, weights, replace_head=True)
        curve = fit(
            model, spec, train_set, test_set, recipe, progress=progress_of(out), resume=resume, teacher=teacher,
            devices=devices, amp=amp, logs=logs,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    if is_first_process():
        save_checkpoint(out, model, _metadata(spec, train_set, recipe, curve))
        progress_of(out).unlink(missing_ok=True)
    return training_result(out, recipe, seconds, curve)


class PreprocessedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images behind the exact preprocessing: index -> (float32 (3, S, S), target). Small sets are kept.

    The target is a class, int64 (), or a mask, uint8 (S, S).
    """

    def __init__(self, images: LabelledDataset, spec: ModelSpec) -> None:
        self._images = images
        self._preprocess = spec.preprocess
        small = len(images) * 13 * spec.input_size**2 <= _KEEP_BYTES
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = {} if small else None

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self._kept is None:
            return self._pair(index)
        if index not in self._kept:
            self._kept[index] = self._pair(index)
        return self._kept[index]

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        tensor = preprocess(self._images.images[index], self._preprocess, Layout.NCHW)[0]  # (3, S, S)
        return torch.from_numpy(tensor), torch.from_numpy(self._images.target(index, self._preprocess))


def check_sets(spec: ModelSpec, train_set: LabelledDataset, test_set: LabelledDataset) -> None:
    """Raise UsageError for sets that do not fit the model or each other."""
    for images in (train_set, test_set):
        require_task(spec.task, images, spec.name)
    if train_set.labels != test_set.labels:
        raise UsageError(f"{train_set.name} and {test_set.name} have other labels", fix="give both the same classes")
    if len(train_set.labels) != spec.num_classes:
        raise UsageError(
            f"{train_set.name} has {len(train_set.labels)} classes, {spec.name} {spec.num_classes}",
            fix=f"build the model for {len(train_set.labels)} classes",
        )
    if spec.num_classes < 2 or len(train_set) < 2 or not len(test_set):
        raise UsageError(
            f"{spec.num_classes} classes, {len(train_set)} training and {len(test_set)} test images are too few",
            fix="training takes 2 classes, 2 training images and 1 test image at least",
        )


def progress_of(out: str | Path) -> Path:
    """Where the progress of the run lies whose checkpoint `out` will be."""
    return Path(out).with_name(f"{Path(out).name}.progress")


def fit(
    model: nn.Module,
    spec: ModelSpec,
    train_set: LabelledDataset,
    test_set: LabelledDataset,
    recipe: Recipe,
    *,
    progress: Path,
    resume: bool = False,
    teacher: nn.Module | None = None,
    devices: int = 1,
    amp: str | None = None,
    logs: str | Path | None = None,
) -> list[EpochResult]:
    """Run all epochs on any network from images (N, 3, S, S) to logits (N, num_classes, ...).

    It holds the trained weights afterwards, on the CPU and in eval mode. Returns one result per epoch. progress: file
    that is written after each epoch; with `resume` a run goes on from there, or begins if there is none. The rest is as
    in `train`.
    """
    if resume and not progress.is_file():
        log.info("nothing to resume at %s: training starts anew", progress)
    placed = placement(devices)
    batch_size = min(recipe.batch_size, len(train_set))
    identity = [spec.name, train_set.name, len(train_set), dataclasses.asdict(recipe), state_digest(model)]
    identity += [amp, placed["devices"] * placed["num_nodes"], None if teacher is None else state_digest(teacher)]
    shuffle = torch.Generator().manual_seed(recipe.seed)
    learner = _LEARNERS[spec.task](model, recipe, spec.num_classes, teacher)
    average = [WeightAverage(recipe.ema_decay)] if recipe.ema_decay else []
    with _quiet_lightning():
        trainer = Trainer(
            max_epochs=recipe.epochs,
            num_sanity_val_steps=0,
            gradient_clip_val=recipe.gradient_clip or None,
            logger=open_logs(logs, resume=resume),
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            precision=lightning_precision(amp),
            callbacks=[EpochBar(), *average, KeepProgress(progress, json.dumps(identity), shuffle)],
            **placed,
        )
        share = share_of(trainer)
        if share.rank:  # dropout shall not fall on the same places in all processes
            torch.manual_seed(recipe.seed + share.rank)
        own = own_batch(batch_size, share)
        batches = DataLoader(
            PreprocessedDataset(train_set, spec), own, sampler=Shuffled(len(train_set), batch_size, shuffle, share)
        )
        scored = DataLoader(
            PreprocessedDataset(test_set, spec), own, sampler=range(share.rank, len(test_set), share.world)
        )
        found = progress if resume and progress.is_file() else None
        trainer.fit(learner, batches, scored, ckpt_path=found, weights_only=True)
    for network in filter(None, (model, teacher)):
        network.cpu().eval()
    return learner.curve


def lightning_precision(amp: str | None) -> _LightningPrecision:
    """Lightning's name for a mixed precision, None for none. UsageError where the machine cannot have it."""
    if amp is None:
        return "32-true"
    if amp not in _AMP:
        raise unknown_name("mixed precision", amp, _AMP)
    if amp == "fp16" and not torch.cuda.is_available():
        raise UsageError("mixed precision fp16 needs a CUDA GPU", fix="use --amp bf16, which CPUs compute too")
    return _AMP[amp]


def training_result(out: str | Path, recipe: Recipe, seconds: float, curve: list[EpochResult]) -> TrainingResult:
    """The result of a run that ended with this curve."""
    return TrainingResult(Path(out), curve[-1].metric, curve[-1].score, recipe.epochs, seconds, tuple(curve))


def describe_training(train_set: LabelledDataset, recipe: Recipe, curve: list[EpochResult]) -> dict[str, Any]:
    """What a checkpoint's metadata records about a run."""
    return {
        "data": train_set.name,
        "skipped": train_set.skipped,
        "recipe": dataclasses.asdict(recipe),
        "metric": curve[-1].metric,
        "score": curve[-1].score,
        "curve": [dataclasses.asdict(result) for result in curve],
    }


def _metadata(
    spec: ModelSpec, train_set: LabelledDataset, recipe: Recipe, curve: list[EpochResult]
) -> CheckpointMetadata:
    return CheckpointMetadata(
        model=spec.name,
        num_classes=spec.num_classes,
        input_size=spec.input_size,
        labels=train_set.labels,
        preprocess=spec.preprocess,
        edgevit_version=__version__,
        training=describe_training(train_set, recipe, curve),
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for initial weights and drop-path; the caller's state returns afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Bound torch's CPU threads to `count`, None to leave them."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's tips and warnings off stderr, and turn its exit on Ctrl-C back into KeyboardInterrupt."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if in_main_thread:  # Lightning leaves SIGINT ignored after a Ctrl-C
            signal.signal(signal.SIGINT, handler)
