"""The moving average of the weights: what is scored after each epoch, and what a run ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from edgevit.training.distributed import agree_on, norm_statistics

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class WeightAverage(Callback):
    """Keeps average = decay * average + (1 - decay) * weights after each step, statistics of batch norms among them.

    Statistics belong to the weights that made them: averaged alike, they stay in step. Counters are copied. In the
    first steps the decay is smaller, (1 + step) / (10 + step), so that random starting weights are soon forgotten.
    It is part of the progress that a killed run goes on from.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin with the starting weights, or with the average of the progress."""
        own = _model(module).state_dict()
        source = self._average or own
        self._average = {name: source[name].detach().to(tensor.device).clone() for name, tensor in own.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any = None, batch: Any = None, batch_idx: int = 0
    ) -> None:
        """Take in the weights of a step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        for name, tensor in _model(module).state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, 1 - decay)
            else:
                self._average[name].copy_(tensor)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Score the average."""
        self._trained = _copied(module)
        _model(module).load_state_dict(self._average)
        agree_on(norm_statistics(_model(module)))
        self._average = _copied(module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Train on."""
        _model(module).load_state_dict(self._trained)
        self._trained = {}

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """End with the average."""
        _model(module).load_state_dict(self._average)

    def state_dict(self) -> dict[str, Any]:
        """What a killed run goes on from."""
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it."""
        self._steps, self._average = state_dict["steps"], state_dict["average"]


def _copied(module: LightningModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in _model(module).state_dict().items()}


def _model(module: LightningModule) -> nn.Module:
    """The network inside a Learner, which is what a Trainer of ours trains."""
    model = module.model
    assert isinstance(model, nn.Module)
    return model
