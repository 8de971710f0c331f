"""Reference pages made from the code: a page per command from its help, and the public Python API.

They are written by the build and not committed, so that they cannot differ from the code. A test reads them too.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

COMMANDS_FOLDER, API_FOLDER = "commands", "api"


def write(folder: Path) -> None:
    """Write commands/*.md and api/*.md below a folder; pages of commands that are gone go too."""
    for name, pages in ((COMMANDS_FOLDER, command_pages()), (API_FOLDER, api_pages())):
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for stem, text in pages.items():
            (target / f"{stem}.md").write_text(text)


def command_pages() -> dict[str, str]:
    """The pages of the command line by name: `index`, and one per command."""
    from edgevit.cli.main import COMMANDS

    entries = "\n".join(f"- [`edgevit {name}`]({name}.md): {summary}" for name, summary in COMMANDS.items())
    toctree = "\n".join(COMMANDS)
    index = (
        "# Command line\n\n"
        "Made from the help of each command. `--debug`, anywhere on the line, shows traces and library output; "
        "`--json` prints one JSON document on stdout, while progress goes to stderr.\n\n"
        f"{entries}\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )
    return {"index": index, **{name: _command_page(name) for name in COMMANDS}}


def help_of(command: str) -> str:
    """What `edgevit COMMAND --help` prints."""
    from typer.testing import CliRunner

    from edgevit.cli.main import _app

    done = CliRunner().invoke(_app([command]), [command, "--help"], prog_name="edgevit")
    if done.exit_code != 0:
        raise RuntimeError(f"edgevit {command} --help ends with {done.exit_code}: {done.output}")
    return done.output.strip("\n")


def options_of(command: str) -> set[str]:
    """The options that the help of a command lists, "--out" and "-O"."""
    listed = re.findall(r"^  (-[^\s,]+(?:, -[^\s,]+)*)", help_of(command), re.M)
    return {name for names in listed for name in names.split(", ")}


def _command_page(name: str) -> str:
    return f"# edgevit {name}\n\n```text\n{help_of(name)}\n```\n"


def api_pages() -> dict[str, str]:
    """One page per public name of the package, and their index: functions first."""
    import edgevit

    names = sorted(edgevit.__all__, key=lambda name: (inspect.isclass(getattr(edgevit, name)), name))
    entries = "\n".join(f"- [`edgevit.{name}`]({name}.md): {_summary(getattr(edgevit, name))}" for name in names)
    toctree = "\n".join(names)
    index = (
        "# Python API\n\n"
        "Made from the docstrings of the public names of the package. What is not listed here may change in any "
        "version. The [guide](../../guides/python-api.md) shows them at work.\n\n"
        f"{entries}\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )
    return {"index": index, **{name: _api_page(name) for name in names}}


def _summary(member: object) -> str:
    summary = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
    return summary.replace("<", "&lt;").replace("*", "\\*")


def _api_page(name: str) -> str:
    import edgevit

    member = getattr(edgevit, name)
    home = importlib.import_module(member.__module__).__name__
    directive = "autoclass" if inspect.isclass(member) else "autofunction"
    options = "   :members:\n" if inspect.isclass(member) else ""
    return (
        f"# edgevit.{name}\n\nDefined in `{home}`.\n\n```{{eval-rst}}\n.. {directive}:: edgevit.{name}\n{options}```\n"
    )
