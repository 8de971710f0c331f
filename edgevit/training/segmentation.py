"""Learning a class per pixel: its losses and scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from edgevit.data.metrics import DICE, MIOU
from edgevit.data.postprocess import IGNORE_INDEX
from edgevit.training.module import Learner
from edgevit.training.recipe import Recipe

_SMOOTH = 1.0  # pixels: keeps the loss of a class that is absent from a batch finite


class Segmenter(Learner):
    """Trains a model from images (N, 3, S, S) to logits (N, num_classes, S, S); the targets are masks uint8 (N, S, S).

    mIoU and Dice (the F1 score of pixels) are means over classes, of all test pixels together.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int, teacher: nn.Module | None = None) -> None:
        metrics = {
            MIOU: MulticlassJaccardIndex(num_classes, ignore_index=IGNORE_INDEX),
            DICE: MulticlassF1Score(num_classes, average="macro", ignore_index=IGNORE_INDEX),
        }
        super().__init__(model, recipe, metrics, teacher)

    def distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of each pixel."""
        target = target.long()
        loss = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, label_smoothing=self.recipe.label_smoothing)
        return loss + self.recipe.dice * dice_loss(logits, target) if self.recipe.dice else loss


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice of the probabilities, mean over classes, a batch taken as one: logits (N, C, H, W), targets (N, H, W).

    After "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation" (2016), with plain
    sums in the denominator.
    """
    counted = (target != IGNORE_INDEX)[:, None]  # (N, 1, H, W)
    wanted = F.one_hot(target.where(counted[:, 0], 0), logits.shape[1]).movedim(-1, 1) * counted
    given = logits.softmax(dim=1) * counted
    pixels = (0, 2, 3)
    shared = (wanted * given).sum(pixels)  # (C,)
    dice = (2 * shared + _SMOOTH) / (wanted.sum(pixels) + given.sum(pixels) + _SMOOTH)
    return 1 - dice.mean()
