"""Opens NNCF quietly: no telemetry, no progress bars, no warnings about what it calls experimental."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import ModuleType

from edgevit.infra.optional_imports import require

_TELEMETRY = "openvino_telemetry"


def open_nncf(module: str = "nncf") -> ModuleType:
    """Import NNCF or one of its modules. Raises MissingDependency if it is not installed.

    NNCF reports its use over the network where openvino-telemetry can be imported; here it cannot.
    """
    with quiet_nncf():
        if "nncf" not in sys.modules:
            known = sys.modules.get(_TELEMETRY)
            sys.modules[_TELEMETRY] = None  # what Python finds there it takes for a missing module
            try:
                require("nncf", "quantize")
            finally:
                del sys.modules[_TELEMETRY]
                if known is not None:
                    sys.modules[_TELEMETRY] = known
        return require(module, "quantize")


@contextmanager
def quiet_nncf() -> Iterator[None]:
    """Keep progress bars, notes to developers and warnings of NNCF and what it imports off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
