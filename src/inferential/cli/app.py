"""The commands there are, put together for one run.

What a command does is in its own module, imported only for the command that runs: `inferential version` loads no server
and `inferential --help` no physics engine.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any

import typer

from inferential.cli.errors import CliError, missing
from inferential.cli.output import wants_rich

COMMANDS = {
    "serve": "Serve models to robots.",
    "demo": "Drive a fleet of simulated robots in real time.",
    "simulate": "Simulate a fleet and its server in virtual time.",
    "call": "Send one observation to a model and show the answer.",
    "bench": "Put load on a server, and tell how it does.",
    "top": "Show the fleet, the models and what waits, live.",
    "check": "Validate a configuration and explain it.",
    "profile": "Measure how long a model's calls take.",
    "schedulers": "List the scheduling strategies there are.",
    "version": "Tell the versions of what is installed.",
}
"""Each is the function of its name in the module `inferential.cli.<name>`, and begins its docstring with this line.

The module may have `EXAMPLES`, a sequence of command lines that `--help` shows. A new command is one file and one line
here.
"""

_EXAMPLES = (
    "inferential serve fleet.yaml",
    "inferential demo",
    "inferential check fleet.yaml",
    "inferential serve --help",
)
_UsageError: Any = typer.BadParameter.__mro__[1]  # typer exports only its child
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def run(args: Sequence[str]) -> int:
    """Runs the command that the arguments name; returns the exit code.

    Raises:
        CliError: the command failed, lacks a package, or there is no such command or option.
    """
    wanted = _wanted(args)
    if wanted is None:
        args = [*args, "--help"]
    try:
        code = build(wanted)(list(args), prog_name="inferential", standalone_mode=False)
    except _UsageError as error:
        message = error.format_message().replace("Value error, ", "")
        where = error.ctx.command_path if error.ctx is not None else "inferential"
        raise CliError(f"{' '.join(message.split())} (try: {where} --help)") from error
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def build(wanted: str | None) -> typer.Typer:
    """The application, in which only the wanted command is more than its name and first line."""
    app = typer.Typer(
        help="Shared policies served to fleets of robots: actions that arrive in time and are fresh.",
        epilog=_epilog(_EXAMPLES),
        rich_markup_mode=_markup(),
        pretty_exceptions_enable=False,  # `main` prints them
        context_settings=_SETTINGS,
    )
    app.callback()(_global_options)
    for name, summary in COMMANDS.items():
        if name == wanted:
            module = _imported(name)
            examples = getattr(module, "EXAMPLES", ())
            app.command(name, epilog=_epilog(examples), context_settings=_SETTINGS)(getattr(module, name))
        else:
            app.command(name, help=summary)(_never_run)
    return app


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"inferential.cli.{name}")
    except ModuleNotFoundError as error:
        raise missing(f"inferential {name}", error, "demo" if name == "demo" else "edge") from error


def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where a command fails.")] = False,
) -> None:
    """`main` looks at it."""


def _never_run() -> None:
    raise AssertionError("the command that runs is imported")


def _wanted(args: Sequence[str]) -> str | None:
    """The command's name: the first word that is no option, on the line to be completed where there is one."""
    if "_INFERENTIAL_COMPLETE" in os.environ:
        line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
        args = line.split()[1:]
    return next((arg for arg in args if not arg.startswith("-")), None)


def _markup() -> Any:
    return "rich" if wants_rich() else None


def _epilog(examples: Sequence[str]) -> str | None:
    # Blank lines, for help is wrapped by paragraphs.
    return "\n\n".join(("Examples:", *examples)) if examples else None
