"""Opens NNCF quietly: no telemetry, no progress bars, no warnings about what it calls experimental."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from edgevit.libraries import require

_TELEMETRY = "openvino_telemetry"


def open_nncf(module: str = "nncf") -> ModuleType:
    """Import NNCF or one of its modules. Raises MissingDependency if it is not installed.

    NNCF reports its use over the network where openvino-telemetry can be imported; here it cannot.
    """
    if "nncf" not in sys.modules:
        absent = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None
        try:
            require("nncf", "quantize")
        finally:
            del sys.modules[_TELEMETRY]
            if absent is not None:
                sys.modules[_TELEMETRY] = absent
    with quiet_nncf():
        return require(module, "quantize")


@contextmanager
def quiet_nncf() -> Iterator[None]:
    """Keep NNCF's notes and torch's warnings about it off the terminal."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
