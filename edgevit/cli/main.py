"""Finds the command, imports only that one, and turns errors into a line, a fix and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Annotated

import typer

from edgevit.cli.renamed import refuse_renamed
from edgevit.errors import EdgevitError, UsageError, unknown_name

COMMANDS = {
    "list": "Models, targets and devices that exist here.",
    "info": "A model's layers, and what each target does with it.",
    "train": "Train a model on labelled images.",
    "quantize": "Make an int8 checkpoint of a float one, without training.",
    "qat": "Train a model in int8, from a float checkpoint or an int8 one.",
    "prune": "Set weights of a float checkpoint to zero, and train the others.",
    "convert": "Turn a checkpoint into verified artifacts.",
    "verify": "Run an artifact and compare it with its checkpoint.",
    "evaluate": "Score artifacts and their checkpoint on labelled images.",
    "debug": "Rank the layers of an artifact by their local error.",
    "qparams": "Show the quantization parameters of an artifact, or compare them with its checkpoint.",
    "lint": "Check a Core ML package without running it.",
    "predict": "Run an artifact on an image.",
    "profile": "Measure latency and memory of artifacts, or compare two.",
    "report": "Write one report over a folder of artifacts and results.",
    "bundle": "Copy artifacts into the Android or iOS app.",
    "doctor": "Say what works on this machine and how to fix the rest.",
}
_EPILOG = (
    "Exit codes: 0 done, 2 wrong argument or input, 3 missing library, 4 export or conversion failed, "
    "5 artifact differs from its checkpoint, 6 device failed, 7 damaged artifact or result, "
    "8 output cannot be written, 130 interrupted."
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code; an error with a fix prints as two lines. None takes sys.argv."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if not debug:
        warnings.simplefilter("ignore")  # libraries warn their developers; edgevit's own messages are log lines
    # Threads that wait by spinning starve each other on a busy machine; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # The flag may stand anywhere; the parser knows it in front only.
    arguments = ["--debug"] * debug + [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        _app(arguments)(arguments, prog_name="edgevit")
    except EdgevitError as error:
        if debug:
            raise
        print(f"error: {error.message}", file=sys.stderr)
        if error.fix:
            print(f"  fix: {error.fix}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe left; not an error
    except OSError as error:  # such as a name that no file can have
        if debug or error.filename is None:
            raise
        print(f"error: {str(error.filename)[:200]}: {error.strerror}\n  fix: correct the path", file=sys.stderr)
        sys.exit(UsageError.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _app(arguments: list[str]) -> typer.Typer:
    """The commands with their help lines; only the wanted one brings its code."""
    app = typer.Typer(
        name="edgevit",
        help="Vision models from checkpoint to phone, board and server: what leaves the pipeline is what was trained.",
        epilog=_EPILOG,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    if wanted is not None:
        refuse_renamed(wanted, arguments)
        if wanted not in COMMANDS:
            raise unknown_name("command", wanted, COMMANDS)
    for name, summary in COMMANDS.items():
        code = getattr(importlib.import_module(f"edgevit.cli.{name}"), name) if name == wanted else _placeholder
        app.command(name, short_help=summary)(code)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgevit import __version__

        print(f"edgevit {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show traces and library output; may stand anywhere.")] = False,
) -> None:
    import logging

    from edgevit import log

    level = logging.DEBUG if debug else logging.INFO
    log.configure(level if log.is_first_process() else logging.ERROR)  # of several processes that train together


def _placeholder() -> None:
    """Stands in the help for a command that was not called."""
