"""What holds for every test."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from edgevit.infra import process
from tests.warm_processes import WarmProcesses


@pytest.fixture(autouse=True, scope="session")
def _no_cache():
    """Tests convert for real and leave the user's cache alone; those about the cache bring a folder."""
    before = os.environ.get("EDGEVIT_CACHE")
    os.environ["EDGEVIT_CACHE"] = ""
    yield
    if before is None:
        del os.environ["EDGEVIT_CACHE"]
    else:
        os.environ["EDGEVIT_CACHE"] = before


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Each test draws from the start of torch's generator, so that no result depends on which tests ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _warm_processes():
    """Conversions run in processes forked from one that has imported the libraries: most of their time went there."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="edgevit-warm-") as folder:
        warm = WarmProcesses(Path(folder))
        cold, process._start = process._start, warm.start
        yield
        process._start = cold
        warm.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a worker that began one last would work on alone while the others have ended."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
