"""What a killed training run needs to go on as if nothing had happened, kept after every epoch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Checkpoint

from edgevit.errors import UsageError
from edgevit.infra.files import storage_errors
from edgevit.training.distributed import gathered
from edgevit.training.module import EpochResult, Learner

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_KEY = "edgevit_progress"  # by which `read_checkpoint` knows the file


class KeepProgress(Checkpoint):
    """Writes weights, optimizer, schedule, random generators and curve to `path` at the end of each epoch.

    run: what identifies the run; progress of another one is refused. shuffle: the generator that orders the images.
    The file is whole or the one of the epoch before, and is read without running code of it.
    """

    def __init__(self, path: Path, run: str, shuffle: torch.Generator) -> None:
        self.path = path
        self._run = run
        self._shuffle = shuffle

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """After the module's own hook: Lightning calls checkpoint callbacks last."""
        partial = self.path.with_name(f"{self.path.name}.partial")
        with storage_errors(self.path):
            trainer.save_checkpoint(partial)  # all processes bring their part, the first one writes
            if trainer.is_global_zero:
                os.replace(partial, self.path)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know."""
        checkpoint[_KEY] = {
            "run": self._run,
            "curve": [dataclasses.asdict(result) for result in _learner(module).curve],
            "generators": [generator.get_state() for generator in self._common(module)],
            "own_generators": gathered(torch.random.get_rng_state()),
        }

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the curve and every stream of random numbers. UsageError for the progress of another run."""
        kept = checkpoint[_KEY]
        if kept["run"] != self._run:
            raise UsageError(
                f"{self.path} is the progress of another run",
                fix="give the arguments and starting weights of that run, or start anew without --resume",
            )
        _learner(module).curve[:] = [EpochResult(**result) for result in kept["curve"]]
        for generator, state in zip(self._common(module), kept["generators"], strict=True):
            generator.set_state(state)
        torch.random.set_rng_state(kept["own_generators"][trainer.global_rank])

    def _common(self, module: LightningModule) -> list[torch.Generator]:
        """Those that are alike in all processes."""
        return [self._shuffle, _learner(module).generator]


def _learner(module: LightningModule) -> Learner:
    """What a Trainer of ours trains."""
    assert isinstance(module, Learner)
    return module
