"""The training step as a LightningModule per task."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from edgevit.compat.torch import is_batch_norm
from edgevit.data.metrics import TOP1, describe_scores
from edgevit.errors import EdgevitError, UsageError
from edgevit.models.layers import DropPath
from edgevit.training.augment import ALONE, augment, mix
from edgevit.training.distributed import agree_on, norm_statistics, share_of
from edgevit.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

    from edgevit.training.augment import Mixture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One row of the training curve: mean training loss, scores on the test set (0 to 1), seconds since the start.

    The first score is the one that the task is judged by.
    """

    epoch: int
    loss: float
    scores: dict[str, float]
    seconds: float

    def facts(self) -> dict[str, float]:
        """Name -> number, for a log."""
        return {"loss": self.loss, **self.scores, "seconds": self.seconds}

    @property
    def metric(self) -> str:
        """What `score` counts: "top-1" or "mIoU"."""
        return next(iter(self.scores))

    @property
    def score(self) -> float:
        """The score that the task is judged by, 0 to 1."""
        return self.scores[self.metric]


class Learner(LightningModule):
    """Trains `model` by a recipe; a subclass per task defines the loss and the scores.

    metrics: what counts on the test set, by name; the first one is what the task is judged by. teacher: a network whose
    outputs on the same images are learned, as the recipe's distillation sets; it does not change. `curve` grows by one
    EpochResult per epoch, each also logged. Raises EdgevitError when the loss or a weight is not finite.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, metrics: dict[str, Metric], teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._teacher = (teacher,)  # in a tuple: not part of what is trained and kept
        self.recipe = recipe
        self.curve: list[EpochResult] = []
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.share = ALONE
        self._loss = MeanMetric()
        self._metrics = metrics
        self._registered = nn.ModuleDict(metrics)  # so that they follow to a device
        self._start = time.perf_counter()
        if recipe.drop_path is not None:
            set_drop_path(model, recipe.drop_path)
        if recipe.freeze_norms:
            freeze_norms(model)

    def distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch of logits (N, classes, ...) against its targets (N, ...)."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        """Start the clock; a run that goes on has its earlier epochs logged again."""
        self._start = time.perf_counter() - (self.curve[-1].seconds if self.curve else 0)
        self.share = share_of(self.trainer)
        for teacher in filter(None, self._teacher):
            teacher.to(self.device).eval()
        for logger in self.loggers:  # a run that goes on writes its table anew
            for result in self.curve:
                logger.log_metrics(result.facts(), step=result.epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        images, target = augment(*batch, self.recipe.augmentation, self.generator, self.share)
        mixture = mix(images, target, self.recipe.mixup_alpha, self.recipe.cutmix_alpha, self.generator)
        logits = self.model(mixture.images)
        loss = self._distance(logits, mixture)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss became {loss.item()}")
        self._loss.update(loss.detach())
        return loss

    def _distance(self, logits: Tensor, mixture: Mixture) -> Tensor:
        """The loss against the targets, and against the teacher's outputs."""
        (teacher,) = self._teacher
        soft_share = 0.0 if teacher is None else self.recipe.distillation.soft_share
        parts = []
        if soft_share < 1:
            hard = [share * self.distance(logits, target) for target, share in mixture.targets]
            parts.append((1 - soft_share) * torch.stack(hard).sum())
        if teacher is not None:
            temperature = self.recipe.distillation.temperature
            # Gradients shrink by the temperature's square, which is given back: the shares keep their meaning.
            parts.append(soft_share * temperature**2 * divergence(logits, teacher, mixture.images, temperature))
        return torch.stack(parts).sum()

    def _diverged(self, what: str) -> EdgevitError:
        return EdgevitError(
            f"{what} in epoch {self.current_epoch + 1}",
            fix="lower the recipe's learning rate, or check the starting weights and the images"
            + ("; the file .progress beside the output has the weights of the epoch before" if self.curve else ""),
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """Behind the last batch all processes take the same norm statistics."""
        if index + 1 == self.trainer.num_training_batches:
            agree_on(norm_statistics(self.model))

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count the scores of one batch."""
        images, target = batch
        logits = self.model(images)
        for metric in self._metrics.values():
            metric.update(logits, target)

    def on_train_epoch_end(self) -> None:
        """Add the epoch, which Lightning has validated by now, to the curve."""
        if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
            raise self._diverged("a weight became infinite or no number")
        result = EpochResult(
            epoch=self.current_epoch + 1,
            loss=self._loss.compute().item(),
            scores={name: metric.compute().item() for name, metric in self._metrics.items()},
            seconds=time.perf_counter() - self._start,
        )
        self.curve.append(result)
        log.info(
            "epoch %d/%d  loss %.3f  %s  %.0f s",
            result.epoch, self.recipe.epochs, result.loss, describe_scores(result.scores), result.seconds,
        )  # fmt: skip
        for logger in self.loggers:
            logger.log_metrics(result.facts(), step=result.epoch)
            logger.save()
        for metric in (self._loss, *self._metrics.values()):
            metric.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and a cosine."""
        # Decay pulls weights to zero; for norms, biases and layer scales (1-D) that would only hold learning back.
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = total * self.recipe.warmup_epochs // self.recipe.epochs
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Classifier(Learner):
    """Trains a model from images (N, 3, S, S) to logits (N, num_classes); the targets are classes (N,)."""

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int, teacher: nn.Module | None = None) -> None:
        super().__init__(model, recipe, {TOP1: MulticlassAccuracy(num_classes, average="micro")}, teacher)

    def distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(logits, target, label_smoothing=self.recipe.label_smoothing)


def divergence(logits: Tensor, teacher: nn.Module, images: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of logits (N, classes, ...) from a teacher's: the mean over images, or pixels.

    Both are divided by the temperature before their softmax.
    """
    with torch.no_grad():
        wanted = F.log_softmax(teacher(images) / temperature, dim=1)
    outputs = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(outputs, wanted, log_target=True, reduction="none").sum(1).mean()


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Let residual branches drop with rates that rise evenly from 0 to `rate`. UsageError for a network without."""
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    if not paths:
        raise UsageError(f"recipe: drop_path is {rate}, but the network has none", fix="leave drop_path out")
    for path, own in zip(paths, torch.linspace(0, rate, len(paths)).tolist(), strict=True):
        path.rate = own


def freeze_norms(model: nn.Module) -> None:
    """Let batch norms keep statistics, scale and shift. They stay so: Lightning returns modules to their own mode."""
    for module in model.modules():
        if is_batch_norm(module):
            module.eval().requires_grad_(False)


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at `step`: linear up to 1 over `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
