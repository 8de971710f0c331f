"""pytest plugin: coremltools' op tests believe that they run on macOS, and MLModel.predict is our interpreter.

Writes one JSON line per test to $CONFORMANCE_LOG. $CONFORMANCE_SHARD is "i/n": this process runs every n-th test.
Only the tests' own view of the platform changes; coremltools converts, saves and loads as it does on Linux.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest

# What is not counted: recurrent cells, random numbers, lists.
EXCLUDED_OPS = ("lstm", "gru", "rnn", "random_", "list_", "make_list")
EXCLUDED_FILES = ("test_recurrent.py", "test_random.py")
_MACOS = (15, 0)  # the first version that runs iOS18 programs and states
_predicted: dict[str, bool] = {}  # node id -> whether its program is excluded


def pytest_configure(config: pytest.Config) -> None:
    """Before the tests import anything of coremltools."""
    import torch

    from edgevit.compat.coremltools import stand_in_for_core_ml

    torch.set_num_threads(1)
    stand_in_for_core_ml(_MACOS, _predict, lambda model: _interpreter(model).make_state())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop the files about recurrent cells and random numbers, keep this process's share of the rest."""
    items[:] = [item for item in items if item.path.name not in EXCLUDED_FILES]
    shard, count = (int(part) for part in os.environ.get("CONFORMANCE_SHARD", "0/1").split("/"))
    items[:] = items[shard::count]


def pytest_collection_finish() -> None:
    """ct.convert ends with a full garbage collection; what exists by now need not be walked 6000 times."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """One line per test: outcome, whether it predicted, and the cause of a failure."""
    report = (yield).get_result()
    if report.when != "call" and report.outcome == "passed":
        return
    cause = ""
    if call.excinfo is not None and report.failed:
        lines = str(call.excinfo.value).strip().splitlines() or [""]
        recorded = [line for line in lines if line.strip() and not line.startswith("Arguments")]
        cause = f"{call.excinfo.typename}: {' '.join(line.strip() for line in recorded[:4])}"[:300]
    line = {
        "test": item.nodeid,
        "outcome": report.outcome,
        "predicted": item.nodeid in _predicted,
        "excluded": _predicted.get(item.nodeid, False),
        "cause": cause,
    }
    with Path(os.environ["CONFORMANCE_LOG"]).open("a") as log:
        log.write(json.dumps(line) + "\n")


def _predict(model: Any, data: Any, state: Any = None) -> Any:
    """Stands for MLModel.predict."""
    from edgevit.errors import UsageError

    test = os.environ["PYTEST_CURRENT_TEST"].rsplit(" (", 1)[0]
    _predicted[test] = _predicted.get(test, False) or _is_excluded(model.get_spec())
    interpreter = _interpreter(model)
    try:
        return interpreter.predict(data, state)
    except UsageError as error:  # Core ML tells of a refused prediction in these words
        raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error


def _interpreter(model: Any) -> Any:
    """The interpreter of a model's saved package, made once."""
    from edgevit.errors import UsageError
    from edgevit.mil import Interpreter

    if not model.is_package:
        raise UsageError("not an ML Program but a neural network of the older format")
    if not hasattr(model, "edgevit_interpreter"):
        mode = os.environ.get("CONFORMANCE_MODE", "declared")
        model.edgevit_interpreter = Interpreter(model.package_path, mode=mode, function=model.function_name)
    return model.edgevit_interpreter


def _is_excluded(spec: Any) -> bool:
    from edgevit.mil.package import body, walk

    functions = spec.mlProgram.functions.values()
    return any(operation.type.startswith(EXCLUDED_OPS) for f in functions for operation in walk(body(f)))
