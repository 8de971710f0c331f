"""A failed test of a module of edgevit/compat says which library's version is to blame."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgevit.infra.optional_imports import version

DISTRIBUTIONS = {"litert": "ai-edge-litert"}
CONSTRAINTS = Path(__file__).resolve().parents[3] / "constraints.txt"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    module = item.path.stem.removeprefix("test_")
    distribution = DISTRIBUTIONS.get(module, module)
    pinned = re.search(rf"^{distribution}==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    if report.failed and pinned:
        report.sections.append(
            (
                "what to do",
                f"edgevit/compat/{module}.py relies on this part of {distribution}, which {version(distribution)} may "
                f"have changed (pinned: {pinned[1]}). Fix that module, or keep the pinned version.",
            )
        )
