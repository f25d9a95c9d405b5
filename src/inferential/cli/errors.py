"""The error that ends a command with one line for the user.

A command raises it; `main` prints it.
"""

from __future__ import annotations

from inferential import Connection
from inferential.errors import InferentialError


class CliError(InferentialError):
    """What the user reads; several lines are several errors."""


def no_answer(server: str, within: str, connection: Connection) -> str:
    """What is told where an answer did not come in time."""
    why = connection.last_error or "it is connected, so the model takes longer than that"
    return f"no answer from {server} within {within}: {why}"


def missing(what: str, error: ModuleNotFoundError, extra: str) -> CliError:
    """The error for a package that is not installed.

    Raises:
        ModuleNotFoundError: the one given, where it is a module of this package: a bug, not an installation.
    """
    if error.name is None or error.name.partition(".")[0] == "inferential":
        raise error
    return CliError(f"{what} needs {error.name}: pip install 'inferential[{extra}]'")
