"""Logs of a run: metrics.csv for tables and spreadsheets, and TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from edgevit.errors import UsageError
from edgevit.infra.optional_imports import require
from edgevit.log import is_first_process

_FILES = ("metrics.csv", "events.out.tfevents.*")


def open_logs(folder: str | Path | None, *, resume: bool) -> list[Logger]:
    """The loggers that write into `folder`; none without one.

    A run that goes on writes its whole table again, and adds event files. Raises UsageError where the folder holds the
    logs of another run.
    """
    if folder is None:
        return []
    require("tensorboardX", "train")
    folder = Path(folder)
    taken = [path for pattern in _FILES for path in folder.glob(pattern)]
    if taken and not resume and is_first_process():
        raise UsageError(f"{folder} has logs of another run: {taken[0].name}", fix="give another folder for --logs")
    return [kind(folder, name="", version="") for kind in (CSVLogger, TensorBoardLogger)]
