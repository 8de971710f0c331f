"""The training step as a LightningModule per task, and its augmentation on tensors."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from edgevit.errors import EdgevitError
from edgevit.scoring import TOP1, describe_scores
from edgevit.training.recipe import Augmentation, Recipe

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

    @property
    def metric(self) -> str:
        """What `score` counts: "top-1" or "mIoU"."""
        return next(iter(self.scores))

    @property
    def score(self) -> float:
        """The score that the task is judged by, 0 to 1."""
        return self.scores[self.metric]


class Learner(LightningModule):
    """Trains `model` by a recipe; a subclass per task says how far answers are from the truth and what scores count.

    metrics: what counts on the test set, by name; the first one is what the task is judged by. teacher: a network whose
    answers on the same images are the target in place of the truth; it does not change. `curve` grows by one
    EpochResult per epoch, each also logged. Raises EdgevitError when the loss is not finite.
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
        self._loss = MeanMetric()
        self._metrics = nn.ModuleDict(metrics)
        self._start = time.perf_counter()

    def augment(self, images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as it is learned from: changed at random, the truth with it."""
        raise NotImplementedError

    def distance(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of a batch of answers (N, classes, ...) to its truth (N, ...)."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        self._start = time.perf_counter() - (self.curve[-1].seconds if self.curve else 0)
        for teacher in filter(None, self._teacher):
            teacher.to(self.device).eval()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, truth = self.augment(*batch)
        logits = self.model(images)
        (teacher,) = self._teacher
        loss = self.distance(logits, truth) if teacher is None else divergence(logits, teacher, images)
        if not torch.isfinite(loss):
            raise EdgevitError(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}",
                hint="lower the recipe's learning rate, or check the starting weights and the images",
            )
        self._loss.update(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, truth = batch
        logits = self.model(images)
        for metric in self._metrics.values():
            metric.update(logits, truth)

    def on_train_epoch_end(self) -> None:  # Lightning validates before it ends the epoch
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
        for metric in (self._loss, *self._metrics.values()):
            metric.reset()

    def configure_optimizers(self) -> dict[str, object]:
        # Decay pulls weights to zero; for norms, biases and layer scales (1-D) that would only hold learning back.
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = total * self.recipe.warmup_epochs // self.recipe.epochs
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Classifier(Learner):
    """Trains a model from images (N, 3, S, S) to logits (N, num_classes); the truth is a class each (N,)."""

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int, teacher: nn.Module | None = None) -> None:
        super().__init__(model, recipe, {TOP1: MulticlassAccuracy(num_classes, average="micro")}, teacher)

    def augment(self, images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return augment(images, self.recipe.augmentation, self.generator), truth

    def distance(self, logits: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(logits, truth, label_smoothing=self.recipe.label_smoothing)


def divergence(logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    """Kullback-Leibler divergence of answers (N, classes, ...) from a teacher's: the mean over pictures, or pixels."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher(images), dim=1)
    return F.kl_div(F.log_softmax(logits, dim=1), wanted, log_target=True, reduction="none").sum(1).mean()


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at `step`: linear up to 1 over `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Shift, scale and rotate each image (N, C, S, S) by its own random amount: the same shape."""
    grid = move_map(images, augmentation, generator)
    return images if grid is None else move_pixels(images, grid)


def move_map(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor | None:
    """Where each pixel of moved images (N, C, S, S) comes from: (N, S, S, 2) for `move_pixels`, None if from its place.

    Draws come from the CPU generator, whatever the device.
    """
    if augmentation == Augmentation():
        return None
    draws = torch.rand(len(images), 4, generator=generator) * 2 - 1  # (N, 4) in [-1, 1)
    angle = draws[:, 0] * math.radians(augmentation.rotation_degrees)
    zoom = 1 + draws[:, 1] * augmentation.scale
    shift = draws[:, 2:] * (2 * augmentation.shift)  # grid coordinates run over 2 from edge to edge
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos, -sin, shift[:, 0]], dim=1), torch.stack([sin, cos, shift[:, 1]], dim=1)]
    affine = torch.stack(rows, dim=1).to(images.device)  # (N, 2, 3)
    return F.affine_grid(affine, list(images.shape), align_corners=False)


def move_pixels(images: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Images (N, C, S, S) by a map of `move_map`; the edge pixel fills what comes into view."""
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
