"""coremltools, imported fast and without noise, and its private names. None is loaded before it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from edgevit.infra.optional_imports import require
from edgevit.log import captured_native_output

# Sources of models that edgevit does not have. ExecuTorch: for programs in its dialect, ours are ATen.
_NOT_NEEDED = ("executorch", "sklearn", "tensorflow")


def message_classes(name: str) -> ModuleType:
    """coremltools.proto.<name>, for example "Model_pb2"; MissingDependency without coremltools.

    coremltools' own import takes seconds and brings torch; its message classes need neither. Until it is
    imported, an empty package stands in for it while they load; a later import of coremltools finds them loaded.
    """
    if "coremltools" in sys.modules:
        return importlib.import_module(f"coremltools.proto.{name}")
    found = importlib.util.find_spec("coremltools")
    if found is None:
        return require("coremltools", "coreml")
    stand_in = ModuleType("coremltools")
    stand_in.__path__ = list(found.submodule_search_locations or ())
    sys.modules["coremltools"] = stand_in
    try:
        return importlib.import_module(f"coremltools.proto.{name}")
    finally:
        del sys.modules["coremltools"]


def open_coremltools() -> ModuleType:
    """coremltools, imported without what it would load along, for seconds, and does not need here."""
    if "coremltools" in sys.modules:
        return sys.modules["coremltools"]
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    absent: dict[str, Any] = dict.fromkeys(hidden)  # None makes an import fail, as on a machine without it
    sys.modules.update(absent)
    try:
        with quiet_coremltools():
            return require("coremltools", "coreml")
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Hold back coremltools' warnings of untested versions, its progress bars and its missing macOS libraries."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with captured_native_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def has_form(operation: Any) -> bool:
    """Whether coremltools can convert an ATen operation; its converter names only the first that it cannot."""
    registry = require("coremltools.converters.mil.frontend.torch.torch_op_registry", "coreml")._TORCH_OPS_REGISTRY
    return registry.get_func(str(operation)) is not None


def stand_in_for_core_ml(
    version: tuple[int, int], predict: Callable[..., Any], make_state: Callable[[Any], Any]
) -> None:
    """Let coremltools' own tests take this machine for a Mac of this version, its models run by other functions.

    For a process of its own: it stays so.
    """
    ct = open_coremltools()
    from coremltools.converters.mil import testing_utils

    testing_utils._IS_MACOS = True
    ct.models.utils._macos_version = lambda: version
    ct.models.MLModel.predict = predict
    ct.models.MLModel.make_state = make_state
