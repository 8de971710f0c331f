"""Learning from another model: who may teach, and how much of the loss is the teacher's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgevit.checkpoints.checkpoint import save_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.errors import UsageError
from edgevit.models import get_spec
from edgevit.spec import Preprocess
from edgevit.training.augment import Mixture
from edgevit.training.module import Classifier
from edgevit.training.recipe import Distillation
from edgevit.training.teacher import open_teacher
from tests.edgevit.training.test_trainer import RECIPE

LABELS = ("cat", "dog")


@pytest.fixture
def teacher(tmp_path):
    """teacher(labels, preprocess) -> arguments that open a model of one's own as a teacher."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes=2):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
        "def mapped(num_classes=2):\n"
        "    return nn.Conv2d(3, num_classes, 1)\n"
    )

    def teacher(
        labels: tuple[str, ...] = LABELS, preprocess: Preprocess | None = None, factory: str = "build"
    ) -> tuple[str, str]:
        module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        module = nn.Conv2d(3, 2, 1) if factory == "mapped" else module
        metadata = CheckpointMetadata("net", 2, 32, labels, preprocess or Preprocess.for_input(32), "0")
        save_checkpoint(tmp_path / "t.pt", module, metadata)
        return f"{tmp_path / 'net.py'}:{factory}", str(tmp_path / "t.pt")

    return teacher


@pytest.fixture
def spec():
    return get_spec("van_b0").for_task(2, 32)


def test_teacher_opens_with_its_weights(teacher, spec):
    module = open_teacher(*teacher(), spec, LABELS)
    assert module(torch.zeros(3, 3, 32, 32)).shape == (3, 2)


def test_teacher_of_other_classes_is_refused(teacher, spec):
    with pytest.raises(UsageError, match="classes, which are not the 2 of the data"):
        open_teacher(*teacher(("dog", "cat")), spec, LABELS)


def test_teacher_of_another_task_is_refused(teacher, spec):
    with pytest.raises(UsageError, match="teacher mapped is there to segment, van_b0 to classify"):
        open_teacher(*teacher(factory="mapped"), spec, LABELS)


def test_teacher_that_sees_other_images_is_refused(teacher, spec):
    other = dataclasses.replace(Preprocess.for_input(32), mean=(0.5, 0.5, 0.5))
    with pytest.raises(UsageError, match="another mean or std"):
        open_teacher(*teacher(preprocess=other), spec, LABELS)


def test_loss_is_the_share_of_both_and_temperature_keeps_its_size():
    logits, images, target = torch.randn(5, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    teacher = nn.Linear(4, 3)
    recipe = dataclasses.replace(RECIPE, distillation=Distillation(soft_share=0.25, temperature=3.0))
    learner = Classifier(nn.Identity(), recipe, 3, teacher)
    loss = learner._distance(logits, Mixture(images, ((target, 0.75), (target.flip(0), 0.25))))
    hard = 0.75 * F.cross_entropy(logits, target) + 0.25 * F.cross_entropy(logits, target.flip(0))
    wanted = (teacher(images) / 3).softmax(1)
    soft = 9 * (wanted * (wanted.log() - (logits / 3).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(loss, 0.75 * hard + 0.25 * soft)


def test_teacher_alone_leaves_the_labels_out():
    logits, images = torch.randn(5, 3), torch.randn(5, 4)
    recipe = dataclasses.replace(RECIPE, distillation=Distillation(soft_share=1.0, temperature=1.0))
    learner = Classifier(nn.Identity(), recipe, 3, nn.Linear(4, 3))
    right, wrong = (learner._distance(logits, Mixture(images, ((target, 1.0),))) for target in (None, torch.zeros(5)))
    assert torch.equal(right, wrong)
