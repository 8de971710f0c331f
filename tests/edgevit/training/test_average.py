"""The moving average: what it holds, and that it is what is scored, kept and saved."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.training.average import WeightAverage
from edgevit.training.module import Classifier
from edgevit.training.trainer import fit, train_network
from tests.edgevit.training.test_trainer import RECIPE, build, colours, toy_spec


def test_average_follows_weights_and_statistics_and_copies_counters():
    model = nn.BatchNorm1d(2)
    module, average = SimpleNamespace(model=model), WeightAverage(0.5)
    average.on_fit_start(None, module)
    with torch.no_grad():
        model.weight.fill_(11.0)
        model.running_mean.fill_(10.0)
        model.num_batches_tracked.fill_(7)
    average.on_train_batch_end(None, module)  # the first decay is 1/10
    kept = average.state_dict()["average"]
    assert kept["weight"].tolist() == pytest.approx([0.1 * 1 + 0.9 * 11] * 2)
    assert kept["running_mean"].tolist() == pytest.approx([9.0] * 2)
    assert kept["num_batches_tracked"] == 7
    for _ in range(20):
        average.on_train_batch_end(None, module)
    before = average.state_dict()["average"]["weight"].clone()
    with torch.no_grad():
        model.weight.fill_(0.0)
    average.on_train_batch_end(None, module)
    torch.testing.assert_close(average.state_dict()["average"]["weight"], 0.5 * before)  # the decay it was given


def test_average_is_scored_and_saved_and_training_goes_on_from_the_weights(tmp_path, monkeypatch):
    scored, trained = [], []
    validation, step = Classifier.validation_step, Classifier.training_step

    def validation_step(self, batch, index):
        scored.append(self.model[0].weight.clone())
        return validation(self, batch, index)

    def training_step(self, batch, index):
        trained.append(self.model[0].weight.detach().clone())
        return step(self, batch, index)

    monkeypatch.setattr(Classifier, "validation_step", validation_step)
    monkeypatch.setattr(Classifier, "training_step", training_step)
    recipe = dataclasses.replace(RECIPE, ema_decay=0.999, epochs=2)
    train_network(toy_spec(), colours(24), colours(8), recipe, tmp_path / "a.pt", threads=1)
    assert torch.equal(read_checkpoint(tmp_path / "a.pt").state_dict["0.weight"], scored[-1])
    assert not torch.equal(scored[0], trained[3])  # of the first step after the first epoch
    scored.clear()
    without = trained.copy()
    trained.clear()
    train_network(
        toy_spec(), colours(24), colours(8), dataclasses.replace(recipe, ema_decay=0.0), tmp_path / "b.pt", threads=1
    )
    assert all(torch.equal(one, other) for one, other in zip(without, trained, strict=True))
    assert torch.equal(scored[0], trained[3])


def test_frozen_norms_do_not_move(tmp_path):
    model = build(2, 8)
    model[1].running_mean.fill_(0.25)
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    weight = model[0].weight.detach().clone()
    recipe = dataclasses.replace(RECIPE, freeze_norms=True)
    fit(model, toy_spec(), colours(16), colours(4), recipe, progress=tmp_path / "p")
    assert all(torch.equal(before[name], value) for name, value in model[1].state_dict().items())
    assert not torch.equal(weight, model[0].weight)
