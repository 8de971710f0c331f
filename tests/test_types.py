"""Types are checked everywhere: nothing is left out, and what is ignored is ignored by name, with a reason, rarely."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import edgevit

ROOT = Path(edgevit.__file__).resolve().parent.parent
MYPY = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
STRICT = ("spec", "contract", "infra", "targets", "verification", "conversion", "profiling")
# What mypy's own `strict` turns on for a module.
STRICT_FLAGS = {
    "disallow_any_generics",
    "disallow_subclassing_any",
    "disallow_untyped_calls",
    "disallow_untyped_decorators",
    "disallow_untyped_defs",
    "no_implicit_reexport",
    "warn_return_any",
}
MOST_IGNORED = 40


def test_every_package_is_checked_and_none_is_excused():
    assert {"edgevit", "converters", "benchmarks"} <= set(MYPY["files"])
    for part in (MYPY, *MYPY["overrides"]):
        assert not {"exclude", "ignore_errors", "follow_imports", "disable_error_code"} & set(part), part


def test_folders_that_others_build_on_are_strict():
    (strict,) = (part for part in MYPY["overrides"] if part.get("disallow_untyped_defs"))
    assert {name.split(".")[1] for name in strict["module"]} == set(STRICT)
    assert {name for name, on in strict.items() if on is True} >= STRICT_FLAGS


def test_missing_types_are_those_of_other_libraries():
    for part in MYPY["overrides"]:
        if part.get("ignore_missing_imports"):
            assert not {"edgevit", "converters", "benchmarks"} & {name.split(".")[0] for name in part["module"]}


def test_ignored_errors_are_few_named_and_explained():
    ignored = []
    for folder in ("edgevit", "converters", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = path.read_text().splitlines()
            for number, line in enumerate(lines):
                if path == Path(__file__).resolve() or "# type: ignore" not in line:
                    continue
                ignored.append(f"{path.relative_to(ROOT)}:{number + 1}")
                assert re.search(r"# type: ignore\[[a-z-]+(, [a-z-]+)*\]", line), ignored[-1]
                reason = re.search(r"# type: ignore\[[^]]+\] +# \w", line)
                assert reason or lines[number - 1].lstrip().startswith("#"), f"{ignored[-1]} gives no reason"
    assert len(ignored) <= MOST_IGNORED, ignored
