"""Learning masks on a toy: one bright square per image, a network of a few hundred weights."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.checkpoints.checkpoint import load_weights, read_checkpoint
from edgevit.data.metrics import score
from edgevit.data.postprocess import IGNORE_INDEX
from edgevit.data.segmentation_datasets import MaskSet
from edgevit.errors import UsageError
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, image_input, logit_map
from edgevit.training.augment import augment
from edgevit.training.recipe import Augmentation, Distillation, Recipe
from edgevit.training.segmentation import Segmenter, dice_loss
from edgevit.training.trainer import PreprocessedDataset, fit, train_network
from tests.edgevit.training.test_trainer import colours, toy_spec

RECIPE = Recipe(
    "toy", epochs=6, batch_size=8, learning_rate=3e-2, augmentation=Augmentation(0.1, 0.1, 10.0), label_smoothing=0.0,
    dice=1.0,
)  # fmt: skip
LABELS = ("background", "square")


def build(num_classes: int, input_size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 1))


def mask_spec(classes: int = 2) -> ModelSpec:
    return ModelSpec(
        name="toy",
        task=Task.SEGMENT,
        tier=Tier.EDGE,
        build=build,
        inputs=image_input(16),
        outputs=logit_map(classes, 16),
        preprocess=Preprocess.for_input(16),
        params=0,
        macs=0,
        paper="none",
    )


def squares(count: int, *, labels: tuple[str, ...] = LABELS, name: str = "squares") -> MaskSet:
    """Noisy 16x18 images with a bright square of 6 pixels a side somewhere, and masks with it."""
    random = np.random.default_rng(count)
    images = random.integers(0, 60, (count, 16, 18, 3), dtype=np.uint8)
    masks = np.zeros((count, 16, 18), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        top, left = random.integers(1, 9, 2)
        image[top : top + 6, left : left + 6] += 150
        mask[top : top + 6, left : left + 6] = 1
    return MaskSet(tuple(images), tuple(masks), labels, name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "toy.pt"
    return train_network(mask_spec(), squares(48), squares(16), RECIPE, out, threads=1)


def test_masks_are_learned_and_the_metadata_tells_the_scores(trained):
    first, last = trained.curve[0], trained.curve[-1]
    assert last.loss < 0.7 * first.loss
    assert (trained.metric, trained.score) == ("mIoU", last.scores["mIoU"])
    assert first.scores["Dice"] > first.scores["mIoU"]
    assert last.scores["Dice"] >= last.scores["mIoU"] > 0.9
    metadata = read_checkpoint(trained.checkpoint).metadata
    assert (metadata.training["metric"], metadata.training["score"]) == ("mIoU", trained.score)
    assert metadata.labels == LABELS


def test_scores_in_training_are_those_of_evaluation(trained):
    model = build(2, 16)
    load_weights(model, trained.checkpoint)
    images = PreprocessedDataset(squares(16), mask_spec())
    tensors, masks = (torch.stack(column) for column in zip(*(images[i] for i in range(16)), strict=True))
    with torch.no_grad():
        found = score(model.eval()(tensors).numpy(), masks.numpy())
    assert found == pytest.approx(trained.curve[-1].scores, abs=1e-6)


def test_log_says_what_counts(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="edgevit"):
        train_network(mask_spec(), squares(8), squares(4), dataclasses.replace(RECIPE, epochs=1), tmp_path / "toy.pt")
    assert "mIoU" in caplog.messages[-1]
    assert "Dice" in caplog.messages[-1]


def test_image_and_mask_move_together():
    images = PreprocessedDataset(squares(16), mask_spec())
    tensors, masks = (torch.stack(column) for column in zip(*(images[i] for i in range(16)), strict=True))
    moved, target = augment(tensors, masks, RECIPE.augmentation, torch.Generator().manual_seed(0))
    assert not torch.equal(target, masks)
    assert set(target.unique().tolist()) == {0, 1}
    bright = moved.mean(1) > tensors.mean((1, 2, 3)).max()  # (N, 16, 16)
    assert ((bright == (target == 1)).float().mean((1, 2)) > 0.9).all()


def test_ignored_pixels_teach_nothing():
    module = Segmenter(build(3, 16), RECIPE, 3)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.randint(3, (2, 4, 4))
    target[0, 1:3] = IGNORE_INDEX
    module.distance(logits, target).backward()
    assert (logits.grad[0, :, 1:3] == 0).all()
    assert (logits.grad[0, :, 0] != 0).any()


def test_dice_loss_of_the_target_is_none_and_of_its_opposite_whole():
    target = torch.tensor([[[0, 0, 1, 1]] * 8] * 2)
    logits = 40 * nn.functional.one_hot(target, 2).movedim(-1, 1).float()
    assert dice_loss(logits, target) == pytest.approx(0, abs=1e-6)
    assert dice_loss(-logits, target) > 0.95


def test_teacher_is_followed_pixel_by_pixel(trained, tmp_path):
    teacher, pupil, spec = build(2, 16), build(2, 16), mask_spec()
    load_weights(teacher, trained.checkpoint)
    target, test = squares(48), squares(16)
    swapped = MaskSet(target.images, tuple(1 - mask for mask in target.masks), LABELS, "swapped")
    recipe = dataclasses.replace(RECIPE, distillation=Distillation(soft_share=1.0, temperature=1.0))
    curve = fit(pupil, spec, swapped, test, recipe, progress=tmp_path / "pupil.progress", teacher=teacher)
    assert curve[-1].score > 0.8  # not the masks, which say the opposite


def test_run_that_was_killed_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    class Killed(BaseException):
        """As abrupt as a signal."""

    step = Segmenter.training_step

    def training_step(self, batch, index):
        if self.current_epoch == 2 and index == 3:
            raise Killed
        return step(self, batch, index)

    out = tmp_path / "killed.pt"
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "training_step", training_step)
        with pytest.raises(Killed):
            train_network(mask_spec(), squares(48), squares(16), RECIPE, out, threads=1)
    train_network(mask_spec(), squares(48), squares(16), RECIPE, out, threads=1, resume=True)
    whole, resumed = (read_checkpoint(path).state_dict for path in (trained.checkpoint, out))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("spec", "train_set", "test_set", "says"),
    [
        (mask_spec(), colours(8), squares(4), "colours has a class per image, toy outputs a class per pixel"),
        (toy_spec(), colours(8), squares(4), "squares has a class per pixel, toy outputs a class per image"),
        (mask_spec(), squares(8), squares(4, labels=("a", "b")), "other labels"),
        (mask_spec(3), squares(8), squares(4), "squares has 2 classes, toy 3"),
    ],
)
def test_sets_that_do_not_fit_are_refused(tmp_path, spec, train_set, test_set, says):
    with pytest.raises(UsageError, match=says):
        train_network(spec, train_set, test_set, RECIPE, tmp_path / "toy.pt")
