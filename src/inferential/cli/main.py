"""Where `inferential` starts: runs a command, and turns what goes wrong into one line and an exit code.

Commands and their options are in `cli.app` and a module each.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from inferential.cli.errors import CliError, missing
from inferential.cli.output import fill_standard_streams, printable

DEBUG = "--debug"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 well, 1 `check` found problems, 2 an error, 130 interrupted."""
    fill_standard_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in args
    if debug:  # wherever it stands
        args = [DEBUG, *(arg for arg in args if arg != DEBUG)]
    try:
        code = _run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # As `inferential schedulers | head -1`: the reader is gone, and the interpreter must not flush either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        for line in _in_words(error).rstrip("\n").split("\n"):
            print(f"error: {printable(line)}", file=sys.stderr)  # it may have words of another machine
        code = 2
    sys.exit(code)


def _run(args: list[str]) -> int:
    try:
        from inferential.cli.app import run
    except ModuleNotFoundError as error:
        if next((arg for arg in args if not arg.startswith("-")), None) == "demo":
            raise missing("the demo", error, "demo") from error  # which brings the command line too
        raise missing("the command line", error, "edge") from error
    return run(args)


def _in_words(error: Exception) -> str:
    if isinstance(error, CliError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} ({DEBUG} shows where)".replace("\n", " ")


if __name__ == "__main__":
    main()
