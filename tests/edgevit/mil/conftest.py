"""Memory limits for packages that ask for too much."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edgevit.mil.ops  # noqa: F401  torch is mapped before memory is limited

MEMORY_BYTES = 1 << 30  # that one package may take


@pytest.fixture
def little_memory():
    """Fail any allocation beyond what the process has already plus MEMORY_BYTES."""
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
