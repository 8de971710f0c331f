"""One word per thing: help, documents and JSON keys use the field's words, not those that edgevit had for itself."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edgevit
from benchmarks.tables import documents
from edgevit.cli.main import COMMANDS, _app

ROOT = Path(edgevit.__file__).resolve().parent.parent
# Each with what to write instead: docs/reference/glossary.md.
_WORDS = (
    "whole numbers?|on a grid|int8 grids?|islands?|rectifiers?|ladders?|climbs?|twins?|inner values?|idle moves?|told"
    "|pictures?|to the bit|remed(?:y|ies)|contenders?|rivals?|standings|promised scales?|taps side by side"
)
REFUSED = re.compile(rf"(?<!\w)({_WORDS})(?!\w)", re.I)
EXEMPT = {ROOT / "CHANGELOG.md", ROOT / "docs/reference/renamed.md"}  # they say what a word was before
JSON_FOLDERS = (ROOT / "edgevit/contract/schemas", ROOT / "benchmarks/results")
JSON_FILES = sorted(path for folder in JSON_FOLDERS for path in folder.glob("*.json"))
DOCUMENTS = [path for path in documents() if path not in EXEMPT]


def refused(text: str) -> list[str]:
    """The refused words in a text, in which lines may break and names have underscores."""
    return REFUSED.findall(re.sub(r"[\s_]+", " ", text))


def test_refused_words_are_found_across_lines_and_in_names():
    assert refused("in whole\n  numbers") == ["whole numbers"]
    assert refused("idle_moves") == ["idle moves"]
    assert refused("a twin, told To The Bit") == ["twin", "told", "To The Bit"]
    assert refused("gridlines, untold, remediation, a hundred rows") == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_the_words_of_the_field(command):
    arguments = [command, "--help"] if command else ["--help"]
    shown = CliRunner().invoke(_app(arguments), arguments)
    assert shown.exit_code == 0
    assert refused(shown.output) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_have_the_words_of_the_field(path):
    assert refused(path.read_text()) == []


@pytest.mark.parametrize("name", edgevit.__all__)
def test_docstrings_of_the_public_api_have_the_words_of_the_field(name):
    member = getattr(edgevit, name)
    own = [value for key, value in vars(member).items() if not key.startswith("_")] if inspect.isclass(member) else []
    assert refused("\n".join(inspect.getdoc(one) or "" for one in (member, *own))) == []


def _keys(value: object) -> Iterator[str]:
    """All keys of a JSON document."""
    if isinstance(value, dict):
        yield from value
        for one in value.values():
            yield from _keys(one)
    elif isinstance(value, list):
        for one in value:
            yield from _keys(one)


@pytest.mark.parametrize("path", JSON_FILES, ids=lambda path: path.name)
def test_keys_of_documents_have_the_words_of_the_field(path):
    assert [key for key in set(_keys(json.loads(path.read_text()))) if refused(key)] == []


def _written_keys(path: Path) -> Iterator[str]:
    """What a module may write as keys: the fields of its classes and the string keys of its dictionaries."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
            yield from (field.id for field in fields if isinstance(field, ast.Name))
        elif isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


@pytest.mark.parametrize("folder", ["edgevit", "converters", "benchmarks"])
def test_keys_that_the_code_writes_have_the_words_of_the_field(folder):
    found = {(path.name, key) for path in (ROOT / folder).rglob("*.py") for key in _written_keys(path) if refused(key)}
    assert found == set()
