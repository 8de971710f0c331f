"""Reference pages made from the code: a page per command from its help, and the public Python API.

They are written by the build and not committed, so that they cannot differ from the code. A test reads them too.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

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


def parameters(name: str) -> list[click.Parameter]:
    """The arguments and options of a command, as its help lists them."""
    return [parameter for parameter in _command(name).params if not getattr(parameter, "hidden", False)]


def _command(name: str) -> click.Command:
    import typer

    from edgevit.cli.main import _app

    return typer.main.get_command(_app([name])).commands[name]


def _command_page(name: str) -> str:
    import click

    command = _command(name)
    context = click.Context(command, info_name=f"edgevit {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"# edgevit {name}", "", "```", f"edgevit {name} {usage}", "```", "", _plain(command.help or ""), ""]
    shown = parameters(name)
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        rows = [parameter for parameter in shown if parameter.param_type_name == kind]
        if rows:
            lines += [f"## {title}", "", "| | type | meaning |", "|---|---|---|", *map(_row, rows), ""]
    return "\n".join(lines)


def _row(parameter: click.Parameter) -> str:
    names = parameter.opts if parameter.param_type_name == "option" else [parameter.human_readable_name]
    notes = [(getattr(parameter, "help", None) or "").strip()]
    if parameter.required:
        notes.append("Required.")
    elif getattr(parameter, "show_default", False) and parameter.default not in (None, False, ()):
        notes.append(f"Default: {parameter.default}.")
    kind = "flag" if getattr(parameter, "is_flag", False) else parameter.type.name
    cells = (", ".join(f"`{one}`" for one in names), kind, " ".join(filter(None, notes)))
    return "| " + " | ".join(_plain(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Help as Markdown: angle brackets and stars are text."""
    return inspect.cleandoc(text).replace("<", "&lt;").replace("*", "\\*")


def api_pages() -> dict[str, str]:
    """One page per public name of the package, and their index in the order of the line."""
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
    return _plain((inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " "))


def _api_page(name: str) -> str:
    import edgevit

    member = getattr(edgevit, name)
    home = importlib.import_module(member.__module__).__name__
    directive = "autoclass" if inspect.isclass(member) else "autofunction"
    options = "   :members:\n" if inspect.isclass(member) else ""
    return (
        f"# edgevit.{name}\n\nDefined in `{home}`.\n\n"
        f"```{{eval-rst}}\n.. {directive}:: edgevit.{name}\n{options}```\n"
    )
