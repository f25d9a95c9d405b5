"""Lists the commands, and runs the one that the arguments name.

A command is a module of its own, imported only when it runs: `inferential version` loads no server, and
`inferential --help` no physics engine.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inferential.cli.errors import CliError, ReaderLeft, missing

COMMANDS = {
    "serve": "Serve models to robots.",
    "demo": "Drive a fleet of simulated robots in real time.",
    "simulate": "Simulate a fleet and its server in virtual time.",
    "plan": "Plan a fleet on so many devices: placement, batches and rates.",
    "call": "Send one observation to a model and show the answer.",
    "bench": "Put load on a server, and report how it does.",
    "top": "Show the fleet, the models and what waits, live.",
    "models": "Show the models, their versions and how these compare.",
    "why": "Say why a robot's actions are late.",
    "advise": "Say which strategy fits a server's robots.",
    "replay": "Ask anew what robots asked, and compare the answers.",
    "export": "Make a dataset to train policies on from recordings.",
    "check": "Validate a configuration and explain it.",
    "keys": "Make, list and revoke the keys of server and robots.",
    "profile": "Measure how long a model's calls take.",
    "schedulers": "List the scheduling strategies there are.",
    "version": "Show the versions of what is installed.",
}
"""Each is the function of its name in the module `inferential.cli.<name>`, and begins its docstring with this line; one
with commands of its own is the module's `APP`.

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
_VERSION = "--version"
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def run(args: Sequence[str]) -> int:
    """Runs the command that the arguments name; returns the exit code.

    Raises:
        CliError: the command failed or needs a package that is not installed, or there is no such command or option.
    """
    if all(arg.startswith("-") and arg != _VERSION for arg in args):
        args = [*args, "--help"]
    try:
        code = build()(list(args), prog_name="inferential", standalone_mode=False)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a command with commands of its own, alone
            print(error.format_message())
            return 0
        message = error.format_message().replace("Value error, ", "")
        where = error.ctx.command_path if error.ctx is not None else "inferential"
        raise CliError(f"{' '.join(message.split())}{_commands_of(error.ctx)} (try: {where} --help)") from error
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _commands_of(context: Any) -> str:
    """Returns what a command has that was asked for another command of its own; "" of any other error."""
    commands = getattr(getattr(context, "command", None), "commands", {})
    return "" if context is None or context.parent is None or not commands else f" There is: {', '.join(commands)}."


class _LazyGroup(TyperGroup):
    """Lists commands by name and first line, and imports the one that runs or is completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else _loaded(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderLeft from error


def build() -> typer.Typer:
    """Returns the application; no command's module is imported yet."""
    app = typer.Typer(
        cls=_LazyGroup,
        help="Shared policies served to fleets of robots: actions that arrive in time and are fresh.",
        epilog=_epilog(_EXAMPLES),
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # `main` prints them
        context_settings=_SETTINGS,
    )
    app.callback()(_global_options)
    for name, summary in COMMANDS.items():
        app.command(name, help=summary)(_never_run)
    return app


def _loaded(name: str) -> Any:
    try:
        module = importlib.import_module(f"inferential.cli.{name}")
    except ModuleNotFoundError as error:
        raise missing(f"inferential {name}", error, "demo" if name == "demo" else "edge") from error
    epilog = _epilog(getattr(module, "EXAMPLES", ()))
    group: typer.Typer | None = getattr(module, "APP", None)
    if group is not None:
        group.info.name, group.info.help, group.info.epilog = name, COMMANDS[name], epilog
        group.rich_markup_mode = None
        return _unwrapped(typer.main.get_group(group))
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(name, epilog=epilog, context_settings=_SETTINGS)(getattr(module, name))
    return _unwrapped(typer.main.get_command(app))


def _unwrapped(command: Any) -> Any:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for child in getattr(command, "commands", {}).values():
        _unwrapped(child)
    return command


def _show_version(asked: bool) -> None:
    if asked:
        print(f"inferential {version_of('inferential')}")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool, typer.Option(_VERSION, help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where a command fails.")] = False,
) -> None:
    """Does nothing: `main` reads `--debug`."""


def _never_run() -> None:
    raise AssertionError("the command that runs is imported")


def _epilog(examples: Sequence[str]) -> str | None:
    # Of a paragraph that begins with \b the lines stay as they are.
    return "\n".join(("\b", "Examples:", *(f"  {example}" for example in examples))) if examples else None
