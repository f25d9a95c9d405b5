"""Options of the commands that ask a server as robots do: the keys that they connect with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inferential.cli.errors import CliError
from inferential.zmtp.certificates import SECRET_SUFFIX

SERVER_KEY_HELP = "The server's NAME.key file, where it asks for keys; several, for several servers, with commas."
SECRET_KEY_HELP = "The NAME.key_secret file to connect with; it gives the name to call by."

ServerKey = Annotated[
    str | None, typer.Option("--server-key", metavar="FILE", envvar="INFERENTIAL_SERVER_KEY", help=SERVER_KEY_HELP)
]
SecretKey = Annotated[
    str | None, typer.Option("--secret-key", metavar="FILE", envvar="INFERENTIAL_SECRET_KEY", help=SECRET_KEY_HELP)
]


def secret_keys(secret_key: str | None, robots: int) -> list[str | None]:
    """Returns the secret key of each of several robots.

    Args:
        secret_key: of the command line: one key, or a folder with NAME.key_secret files; None: none.
        robots: how many.

    Raises:
        CliError: there are fewer keys than robots: a server knows a robot by its key, and serves one under each.
    """
    if not secret_key:
        return [None] * robots
    path = Path(secret_key)
    found = sorted(map(str, path.glob(f"*{SECRET_SUFFIX}"))) if path.is_dir() else [secret_key]
    if len(found) < robots:
        raise CliError(
            f"--secret-key: {robots} robots need a key each, and {secret_key} has {len(found)}: give a folder with "
            f"NAME{SECRET_SUFFIX} files (`inferential keys new client NAME...` makes them), or --robots {len(found)}"
        )
    return [*found[:robots]]
