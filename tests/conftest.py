"""What holds for every test."""

from __future__ import annotations

import os

import pytest


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
