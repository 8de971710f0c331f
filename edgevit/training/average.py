"""The moving average of the weights: what is scored after each epoch, and what a run ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from edgevit.training.distributed import agree_on, norm_statistics

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from edgevit.training.module import Learner


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

    def on_fit_start(self, trainer: Trainer, module: Learner) -> None:
        """Begin with the starting weights, or with the average of the progress."""
        own = module.model.state_dict()
        source = self._average or own
        self._average = {name: source[name].detach().to(tensor.device).clone() for name, tensor in own.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: Learner, *_: Any) -> None:
        """Take in the weights of a step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        for name, tensor in module.model.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, 1 - decay)
            else:
                self._average[name].copy_(tensor)

    def on_validation_start(self, trainer: Trainer, module: Learner) -> None:
        """Score the average."""
        self._trained = _copied(module)
        module.model.load_state_dict(self._average)
        agree_on(norm_statistics(module.model))
        self._average = _copied(module)

    def on_validation_end(self, trainer: Trainer, module: Learner) -> None:
        """Train on."""
        module.model.load_state_dict(self._trained)
        self._trained = {}

    def on_fit_end(self, trainer: Trainer, module: Learner) -> None:
        """End with the average."""
        module.model.load_state_dict(self._average)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._average = state_dict["steps"], state_dict["average"]


def _copied(module: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
