"""Progress on stderr: one logger tree, and `stage`, which says what runs, how long it took and what came of it."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

logger = logging.getLogger("edgevit")
_CHATTY = ("torchao", "torch.utils._pytree")  # on import, of GPU kernels that this machine has no use for


@dataclass(slots=True)
class Stage:
    """A running stage; set `result` to a few words before it ends."""

    result: str = ""
    seconds: float = 0.0


@contextmanager
def stage(name: str, **facts: object) -> Iterator[Stage]:
    """Log the start and the end of a long step, with its seconds and result, or its failure."""
    detail = " ".join(f"{key}={value}" for key, value in facts.items())
    logger.info("%-9s %s ...", name, detail)
    running = Stage()
    start = time.perf_counter()
    try:
        yield running
    except BaseException:
        logger.info("%-9s %s failed after %.1f s", name, detail, time.perf_counter() - start)
        raise
    running.seconds = time.perf_counter() - start
    logger.info("%-9s %s %.1f s%s", name, detail, running.seconds, f": {running.result}" if running.result else "")


def is_first_process() -> bool:
    """Whether this process speaks and writes for all that train together; true for a process alone."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0


def configure(level: int = logging.INFO) -> None:
    """Send edgevit's log lines to stderr, bare, and hold back what libraries say of themselves on import.

    Called by the command line and by workers only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")  # torch's, about its own TreeSpec


@contextmanager
def captured_native_output() -> Iterator[Callable[[], str]]:
    """Hold back what native libraries print straight to file descriptors 1 and 2; call the result to read it.

    Runtimes chat on load ("Replacing 30 out of 31 node(s)..."); some of it is needed, none belongs on a terminal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as sink:

        def text() -> str:
            sink.seek(0)
            return sink.read().decode(errors="replace")

        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield text
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
