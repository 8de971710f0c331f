"""Training on a toy: two colours, a network of a few hundred weights."""

from __future__ import annotations

import dataclasses
import logging
import signal

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.checkpoints.checkpoint import load_weights, read_checkpoint
from edgevit.data.datasets import ImageSet
from edgevit.errors import EdgevitError, StorageError, UsageError
from edgevit.models.layers import DropPath
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, class_logits, image_input, logit_map
from edgevit.training.module import Classifier, set_drop_path, warmup_cosine
from edgevit.training.recipe import Augmentation, Distillation, Recipe
from edgevit.training.trainer import PreprocessedDataset, fit, train_network

RECIPE = Recipe(
    "toy", epochs=3, batch_size=8, learning_rate=2e-2, augmentation=Augmentation(0.1, 0.1, 10.0), label_smoothing=0.0
)


def build(num_classes: int, input_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
    )  # fmt: skip


def toy_spec(classes: int = 2) -> ModelSpec:
    return ModelSpec(
        name="toy",
        task=Task.CLASSIFY,
        tier=Tier.EDGE,
        build=build,
        inputs=image_input(8),
        outputs=class_logits(classes),
        preprocess=Preprocess.for_input(8),
        params=0,
        macs=0,
        paper="none",
    )


def colours(count: int, *, labels: tuple[str, ...] = ("red", "blue"), name: str = "colours") -> ImageSet:
    """Noisy 10x9 images whose channel 0 or 2 is bright, in turn."""
    random = np.random.default_rng(count)
    targets = np.arange(count) % len(labels)
    images = random.integers(0, 60, (count, 10, 9, 3), dtype=np.uint8)
    for image, target in zip(images, targets, strict=True):
        image[..., 2 * target] += 150
    return ImageSet(tuple(images), targets.astype(np.int64), labels, name)


def test_loss_falls_and_the_metadata_tells_what_was_trained(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="edgevit"):
        result = train_network(toy_spec(), colours(64), colours(20), RECIPE, tmp_path / "toy.pt")
    assert [epoch.epoch for epoch in result.curve] == [1, 2, 3]
    assert result.curve[-1].loss < 0.7 * result.curve[0].loss
    assert result.score == result.curve[-1].scores["top-1"] == 1.0
    assert result.metric == "top-1"
    assert result.epochs == 3
    assert result.seconds > 0

    metadata = read_checkpoint(result.checkpoint).metadata
    assert metadata.labels == ("red", "blue")
    assert metadata.model == "toy"
    assert metadata.input_size == 8
    assert metadata.preprocess == toy_spec().preprocess
    assert metadata.training["recipe"]["augmentation"] == dataclasses.asdict(RECIPE.augmentation)
    assert (metadata.training["metric"], metadata.training["score"]) == ("top-1", 1.0)
    assert len(metadata.training["curve"]) == 3

    lines = [record.getMessage() for record in caplog.records]
    assert lines[-1].startswith("epoch 3/3  loss ")
    assert "top-1 100.00 %" in lines[-1]


def test_run_prints_and_leaves_nothing_else(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    train_network(toy_spec(), colours(16), colours(4), dataclasses.replace(RECIPE, epochs=1), tmp_path / "toy.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.pt"]
    assert capfd.readouterr() == ("", "")


def test_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    def weights(seed: int, name: str) -> dict[str, torch.Tensor]:
        torch.rand(3)  # the caller's generator must not matter
        recipe = dataclasses.replace(RECIPE, seed=seed)
        train_network(toy_spec(), colours(24), colours(4), recipe, tmp_path / name, threads=1)
        return read_checkpoint(tmp_path / name).state_dict

    first, again, other = weights(3, "a.pt"), weights(3, "b.pt"), weights(4, "c.pt")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_caller_keeps_its_random_state_and_threads(tmp_path):
    torch.manual_seed(1)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train_network(
        toy_spec(), colours(16), colours(4), dataclasses.replace(RECIPE, epochs=1), tmp_path / "t.pt", threads=1
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_weights_are_the_start_and_get_a_new_head_for_other_classes(tmp_path):
    still = dataclasses.replace(RECIPE, epochs=1, learning_rate=1e-12)
    train_network(toy_spec(), colours(64), colours(20), RECIPE, tmp_path / "a.pt")
    start = read_checkpoint(tmp_path / "a.pt").state_dict
    three = colours(16, labels=("r", "b")), colours(4, labels=("r", "b"))
    three = tuple(dataclasses.replace(part, labels=("r", "b", "none")) for part in three)
    train_network(toy_spec(3), *three, still, tmp_path / "b.pt", weights=tmp_path / "a.pt")
    tuned = read_checkpoint(tmp_path / "b.pt")
    torch.testing.assert_close(tuned.state_dict["0.weight"], start["0.weight"])
    assert tuned.state_dict["5.weight"].shape == (3, 8)
    assert tuned.metadata.labels == ("r", "b", "none")


def test_loss_that_is_not_finite_stops_with_a_fix_and_saves_nothing(tmp_path):
    class Diverging(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mean((2, 3))) / 0

    spec = dataclasses.replace(toy_spec(), build=lambda classes, size: Diverging(3, classes))
    with pytest.raises(EdgevitError, match=r"loss became nan in epoch 1 .*learning rate"):
        train_network(spec, colours(16), colours(4), RECIPE, tmp_path / "toy.pt")
    assert not list(tmp_path.iterdir())


class Poisoned(nn.Linear):
    """Answers well, until after some steps of training its gradient is no number."""

    def __init__(self, classes: int, after: int) -> None:
        super().__init__(3, classes)
        self.left = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= self.training
        logits = super().forward(x.mean((2, 3)))
        if self.training and self.left < 0:
            logits.register_hook(lambda gradient: gradient * float("nan"))
        return logits


@pytest.mark.parametrize(("after", "what"), [(4, "the loss became nan"), (5, "a weight became infinite or no number")])
def test_divergence_in_the_second_epoch_keeps_the_weights_of_the_first(tmp_path, after, what):
    spec = dataclasses.replace(toy_spec(), build=lambda classes, size: Poisoned(classes, after))
    out = tmp_path / "toy.pt"
    out.write_bytes(b"an older one")
    with pytest.raises(EdgevitError, match=rf"{what} in epoch 2 .*\.progress beside the output"):
        train_network(spec, colours(24), colours(4), RECIPE, out)  # three steps each epoch
    assert out.read_bytes() == b"an older one"
    kept = read_checkpoint(tmp_path / "toy.pt.progress")
    assert kept.state_dict["weight"].isfinite().all()
    model = Poisoned(2, 99)
    load_weights(model, kept)  # and training may start from there, by a gentler recipe
    fit(model, spec, colours(24), colours(4), RECIPE, progress=tmp_path / "gentle")


def test_interrupt_is_passed_on_and_leaves_no_file(tmp_path):
    class Interrupted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

    spec = dataclasses.replace(toy_spec(), build=lambda classes, size: Interrupted(3, classes))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_network(spec, colours(16), colours(4), RECIPE, tmp_path / "toy.pt")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is handler


def test_unwritable_output_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        train_network(
            toy_spec(), colours(16), colours(4), dataclasses.replace(RECIPE, epochs=1), tmp_path / "file" / "t.pt"
        )


def test_set_larger_than_memory_allowance_trains_the_same(tmp_path, monkeypatch):
    train_network(toy_spec(), colours(16), colours(4), RECIPE, tmp_path / "kept.pt", threads=1)
    monkeypatch.setattr("edgevit.training.trainer._KEEP_BYTES", 0)
    train_network(toy_spec(), colours(16), colours(4), RECIPE, tmp_path / "read.pt", threads=1)
    kept, read = (read_checkpoint(tmp_path / name).state_dict for name in ("kept.pt", "read.pt"))
    assert all(torch.equal(kept[name], read[name]) for name in kept)


@pytest.mark.parametrize(
    ("spec", "train_set", "test_set", "message"),
    [
        (toy_spec(3), colours(8), colours(4), "colours has 2 classes, toy 3"),
        (toy_spec(), colours(8), colours(4, labels=("a", "b")), "other labels"),
        (toy_spec(), colours(1), colours(4), "too few"),
        (toy_spec(), colours(8), colours(0), "too few"),
        (
            dataclasses.replace(toy_spec(), task=Task.SEGMENT, outputs=logit_map(2, 8)),
            colours(8),
            colours(4),
            "a class per pixel",
        ),
    ],
)
def test_sets_that_do_not_fit_are_refused(tmp_path, spec, train_set, test_set, message):
    with pytest.raises(UsageError, match=message):
        train_network(spec, train_set, test_set, RECIPE, tmp_path / "toy.pt")


def test_learning_rate_rises_over_warmup_and_falls_to_zero():
    rates = [warmup_cosine(step, 4, 20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0.0)
    assert warmup_cosine(0, 0, 1) == 1.0


class Killed(BaseException):
    """As abrupt as a signal: nobody catches it to tidy up."""


@pytest.mark.parametrize("batch", [1, 4])
def test_run_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch, batch):
    def dropping(num_classes: int, input_size: int) -> nn.Module:
        return nn.Sequential(build(8, input_size), nn.Dropout(0.3), nn.Linear(8, num_classes))

    spec = dataclasses.replace(toy_spec(), build=dropping)
    whole, killed = tmp_path / "whole.pt", tmp_path / "killed.pt"
    sets = colours(48), colours(16)
    recipe = dataclasses.replace(RECIPE, ema_decay=0.9, mixup_alpha=0.2, cutmix_alpha=1.0, gradient_clip=1.0)
    expected = train_network(spec, *sets, recipe, whole, threads=1)
    step = Classifier.training_step

    def training_step(self, images, index):
        if self.current_epoch == 1 and index == batch - 1:
            raise Killed
        return step(self, images, index)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "training_step", training_step)
        with pytest.raises(Killed):
            train_network(spec, *sets, recipe, killed, threads=1)
    assert not killed.exists()
    result = train_network(spec, *sets, recipe, killed, threads=1, resume=True)
    assert [dataclasses.replace(epoch, seconds=0) for epoch in result.curve] == [
        dataclasses.replace(epoch, seconds=0) for epoch in expected.curve
    ]
    one, other = (read_checkpoint(path).state_dict for path in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(tmp_path.glob("*.progress*"))


def test_progress_of_another_run_is_refused(tmp_path, monkeypatch):
    def training_step(self, images, index):
        raise Killed

    out = tmp_path / "toy.pt"
    short = dataclasses.replace(RECIPE, epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr("edgevit.training.trainer.save_checkpoint", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train_network(toy_spec(), colours(16), colours(8), short, out)
    with pytest.raises(UsageError, match="progress of another run"):
        train_network(toy_spec(), colours(16), colours(8), RECIPE, out, resume=True)


def test_nothing_to_resume_is_reported_and_training_starts(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="edgevit"):
        train_network(toy_spec(), colours(16), colours(8), RECIPE, tmp_path / "toy.pt", resume=True)
    assert "starts anew" in caplog.text


def test_teacher_is_followed_and_stays_as_it_is(tmp_path):
    spec, (train_set, test_set) = toy_spec(), (colours(48), colours(16))
    train_network(spec, train_set, test_set, RECIPE, tmp_path / "teacher.pt", threads=1)
    teacher, pupil = build(2, 8), build(2, 8)
    load_weights(teacher, tmp_path / "teacher.pt")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    swapped = ImageSet(train_set.images, 1 - train_set.targets, train_set.labels, "swapped")
    recipe = dataclasses.replace(RECIPE, distillation=Distillation(soft_share=1.0, temperature=1.0))
    fit(pupil, spec, swapped, test_set, recipe, progress=tmp_path / "pupil.progress", teacher=teacher)
    images = torch.stack([PreprocessedDataset(test_set, spec)[i][0] for i in range(16)])
    with torch.no_grad():
        taught, learned = teacher.eval()(images).argmax(1), pupil(images).argmax(1)
    assert (taught == learned).float().mean() > 0.9  # not the labels, which say the opposite
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_mixed_precision_trains_and_the_checkpoint_is_float32(tmp_path):
    seen = []

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x.mean((2, 3)))
            seen.append(logits.dtype)
            return logits

    spec = dataclasses.replace(toy_spec(), build=lambda classes, size: Watched(3, classes))
    result = train_network(spec, colours(64), colours(20), RECIPE, tmp_path / "toy.pt", amp="bf16")
    assert set(seen) == {torch.bfloat16}
    assert result.score > 0.9
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["state_dict"]["weight"].dtype is torch.float32


@pytest.mark.parametrize(("amp", "message"), [("bf61", "did you mean bf16"), ("fp16", "needs a CUDA GPU.*bf16")])
def test_mixed_precision_that_is_not_there_is_refused(tmp_path, monkeypatch, amp, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        train_network(toy_spec(), colours(16), colours(4), RECIPE, tmp_path / "toy.pt", amp=amp)


def test_drop_path_rises_with_depth_and_is_refused_where_there_is_none():
    model = nn.Sequential(*[DropPath(0.5) for _ in range(3)])
    set_drop_path(model, 0.2)
    assert [path.rate for path in model] == pytest.approx([0.0, 0.1, 0.2])
    with pytest.raises(UsageError, match=r"drop_path is 0\.2, but the network has none"):
        set_drop_path(build(2, 8), 0.2)


def test_gradient_is_clipped(tmp_path):
    moved = []
    for clip in (0.0, 1e-9):
        model = build(2, 8)
        before = model[5].weight.detach().clone()
        recipe = dataclasses.replace(RECIPE, gradient_clip=clip, weight_decay=0.0, epochs=1)
        fit(model, toy_spec(), colours(16), colours(4), recipe, progress=tmp_path / f"{clip}")
        moved.append((model[5].weight - before).abs().max())
    assert moved[1] < 0.2 * moved[0]  # next to Adam's epsilon such a gradient is nothing
