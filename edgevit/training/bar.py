"""A progress bar for each epoch, on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class EpochBar(Callback):
    """Draws a bar on stderr while an epoch trains and takes it away before the epoch's line; only on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bar: Progress | None = None

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin at zero."""
        if not (self._console.is_terminal and trainer.is_global_zero):
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._bar.add_task(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", total=trainer.num_training_batches
        )
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any = None, batch: Any = None, batch_idx: int = 0
    ) -> None:
        """One batch further."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Make room for the epoch's line, which the module writes after its callbacks."""
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
