"""The error that ends a command with one line for the user.

A command raises it; `main` prints it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferential.errors import InferentialError

if TYPE_CHECKING:
    from inferential import Connection


class CliError(InferentialError):
    """What the user reads; several lines are several errors."""


class ReaderLeft(InferentialError):
    """Nothing reads the standard output any more. It is no OSError, for which typer ends a process with status 1."""


_REMEDIES = {
    "Connection refused": " (nothing listens there; `inferential serve` starts a server, where --bind says)",
    "connecting": " (no server has greeted; is it the port for robots, not that of the page or of a gateway?)",
    "peer does not speak ZMTP": "; is it the port for robots, not that of the page or of a gateway?",
}
"""By how a connection's last error begins, what to do."""


def no_answer(server: str, within: str, connection: Connection) -> str:
    """Returns the message for an answer that did not come in time."""
    why = connection.last_error or "it is connected, so the model takes longer than that"
    remedy = next((text for begin, text in _REMEDIES.items() if why.startswith(begin)), "")
    return f"no answer from {server} within {within}: {why}{remedy}"


def missing(what: str, error: ModuleNotFoundError, extra: str) -> CliError:
    """Returns the error for a package that is not installed.

    Raises:
        ModuleNotFoundError: the one given, if a module of this package is missing, which is a bug.
    """
    if error.name is None or error.name.partition(".")[0] == "inferential":
        raise error
    return CliError(f"{what} needs {error.name}: pip install 'inferential[{extra}]'")
