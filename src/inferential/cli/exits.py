"""Runs a command, and makes one line and an exit code of what goes wrong.

Commands and their options are in `cli.app` and a module each.
"""

from __future__ import annotations

import contextlib
import errno
import io
import sys
import traceback
from collections.abc import Sequence

from inferential.cli.errors import CliError, ReaderLeft, missing
from inferential.cli.output import end_output, fill_standard_streams, printable
from inferential.errors import system_reason

DEBUG = "--debug"
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED, NO_READER = 130, 141
"""Exit codes as a shell has them of a process that SIGINT or SIGPIPE ended."""


def run_command(args: Sequence[str]) -> int:
    """Runs a command; returns its exit code."""
    fill_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as names of robots may have letters that the terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = DEBUG in args
    if debug:  # wherever it stands
        args = [DEBUG, *(arg for arg in args if arg != DEBUG)]
    try:
        code = _run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (BrokenPipeError, ReaderLeft):  # as `inferential schedulers | head -1`
        code = NO_READER
    except Exception as error:
        code = _report(error, with_traceback=debug)
    end_output()
    return code


def _report(error: Exception, *, with_traceback: bool) -> int:
    """Says on standard error what went wrong; returns the exit code."""
    unwritten = end_output()
    if isinstance(unwritten, BrokenPipeError):
        return NO_READER
    text = _in_words(error) if unwritten is None else f"cannot write to standard output: {system_reason(unwritten)}"
    with contextlib.suppress(OSError):  # the standard error cannot be written either
        if with_traceback:
            traceback.print_exception(error)
        for line in text.rstrip("\n").split("\n"):
            print(f"error: {printable(line)}", file=sys.stderr)  # it may have words of another machine
    return 2


def _run(args: Sequence[str]) -> int:
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
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL and error.filename is None:
        return f"cannot write to standard output: {system_reason(error)}"  # files have options, which say so
    return f"unexpected {type(error).__name__}: {error} ({DEBUG} shows where)".replace("\n", " ")
