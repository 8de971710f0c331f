"""README and docs/ say what is true: commands, options, targets and tables are those of the code and the results."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

import edgevit
from benchmarks.tables import TABLES, documents, render, tables_of
from edgevit.cli.main import COMMANDS
from edgevit.models import iter_specs
from edgevit.targets.registry import converter_names, get_converter

ROOT = Path(edgevit.__file__).resolve().parent.parent
DOCUMENTS = documents()
HISTORY = {ROOT / "CHANGELOG.md", ROOT / "docs/reference/renamed.md"}  # they name what is gone
_SHELL = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="session")
def pages():
    """docs/reference_pages.py, which lies beside Sphinx's conf.py and not in a package."""
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs/reference_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _without_generated_tables(text: str) -> str:
    return re.sub(r"<!-- table: .*?<!-- /table -->", "", text, flags=re.S)


def _calls(text: str) -> list[list[str]]:
    """The words of every `edgevit ...` line in a document's code blocks, comments left out."""
    lines = (line for block in _SHELL.findall(text) for line in block.splitlines())
    return [line.partition(" #")[0].split() for line in lines if re.match(r"edgevit [a-z]", line)]


def test_documents_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "docs/guides/quantization.md"} <= set(
        map(_name, DOCUMENTS)
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_tables_come_from_committed_results(path):
    text = path.read_text()
    assert render(text) == text, "run: python -m benchmarks.tables"


def test_every_table_is_shown():
    shown = [name for path in DOCUMENTS for name in tables_of(path.read_text())]
    assert sorted(shown) == sorted(TABLES)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in HISTORY], ids=_name)
def test_commands_and_their_options_exist(path, pages):
    text = path.read_text()
    for command in set(re.findall(r"`edgevit ([a-z]+)", text)):
        assert command in COMMANDS, command
    for _, command, *words in _calls(text):
        assert command in COMMANDS, command
        used = {word.partition("=")[0] for word in words if re.match(r"-(-[a-z]|[a-zA-Z]$)", word)}
        assert used <= pages.options_of(command), " ".join(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = path.read_text()
    used = set(re.findall(r"`make ([a-z0-9-]+)", text)) | set(re.findall(r"^make ([a-z0-9-]+)", text, re.M))
    assert used <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_benchmark_commands_exist(path):
    for module in set(re.findall(r"python -m (benchmarks\.[a-z0-9_]+)", path.read_text())):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_resolve(path):
    for link in _LINK.findall(_SHELL.sub("", path.read_text())):
        if link.startswith(("http://", "https://", "#")):
            assert link.startswith("#"), f"{link}: nothing outside the repository is linked"
            continue
        target, _, heading = link.partition("#")
        found = (path.parent / target).resolve()
        made = {"commands", "api"} & set(Path(target).parts)  # pages that the build writes
        assert made or found.exists(), link
        if heading and not made:
            assert heading in _anchors(found.read_text()), link


def _anchors(text: str) -> set[str]:
    """Headings as links name them: "Plug-ins" -> "plug-ins"."""
    titles = re.findall(r"^#+ (.+)$", _SHELL.sub("", text), re.M)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_shown_in_a_guide_and_has_its_page(command, pages):
    written = "\n".join(path.read_text() for path in DOCUMENTS)
    assert re.search(rf"edgevit {command}\b", written)
    page = pages.command_pages()[command]
    assert pages.options_of(command) <= set(re.findall(r"(?<![\w-])(-\w|--[a-z-]+)", page))


@pytest.mark.parametrize("target", converter_names())
def test_every_option_of_a_target_is_on_its_page(target):
    page = (ROOT / f"docs/targets/{target}.md").read_text()
    for field in dataclasses.fields(get_converter(target).Options):
        assert re.search(rf"`{field.name}[=`]", page), field.name


@pytest.mark.parametrize("name", edgevit.__all__)
def test_every_public_name_has_a_page_and_a_docstring(name, pages):
    assert f"edgevit.{name}" in pages.api_pages()[name]
    assert getattr(edgevit, name).__doc__


def test_every_deploy_pass_is_documented():
    from edgevit.deploy.pass_manager import PASSES
    from edgevit.quantization.quantized_model import INT8_PASSES

    page = (ROOT / "docs/design/deploy-passes.md").read_text()
    assert [one.name for one in {*PASSES, *INT8_PASSES} if f"`{one.name}`" not in page] == []


def test_readme_is_short_and_counts_the_models():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 160
    assert f"{len(list(iter_specs()))} variants" in readme


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "Makefile"])
def test_setup_says_what_it_takes_with_either_build_of_torch(name):
    text = (ROOT / name).read_text()
    assert [size for size in ("2.9 GB", "5.7 GB", "about 2 GB") if size not in text] == []
    assert "TORCH_INDEX=URL" in text
