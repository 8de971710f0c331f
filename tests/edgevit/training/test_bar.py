"""The bar of an epoch: on a terminal only, and gone afterwards."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from edgevit.training.bar import EpochBar

TRAINER = SimpleNamespace(is_global_zero=True, current_epoch=1, max_epochs=3, num_training_batches=4)


def drawn(trainer: SimpleNamespace, *, terminal: bool) -> str:
    stream = io.StringIO()
    bar = EpochBar(Console(file=stream, force_terminal=terminal, width=80))
    bar.on_train_epoch_start(trainer, None)
    for _ in range(4):
        bar.on_train_batch_end(trainer, None, None, None, 0)
    bar.on_train_epoch_end(trainer, None)
    return stream.getvalue()


def test_terminal_sees_epoch_and_batches_and_the_bar_goes():
    text = drawn(TRAINER, terminal=True)
    assert "epoch 2/3" in text
    assert "4/4" in text
    assert text.endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(
    ("trainer", "terminal"), [(TRAINER, False), (SimpleNamespace(**vars(TRAINER) | {"is_global_zero": False}), True)]
)
def test_files_and_other_processes_stay_silent(trainer, terminal):
    assert drawn(trainer, terminal=terminal) == ""


def test_bar_goes_when_training_fails():
    stream = io.StringIO()
    bar = EpochBar(Console(file=stream, force_terminal=True, width=80))
    bar.on_train_epoch_start(TRAINER, None)
    bar.on_exception(TRAINER, None, KeyboardInterrupt())
    assert stream.getvalue().endswith("\x1b[2K")
