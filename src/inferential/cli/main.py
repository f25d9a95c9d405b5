"""Where `inferential` starts.

What the command line is made of is imported where Ctrl-C is handled already, as it is while a command runs.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 well, 1 `check` found problems, 2 an error, 130 interrupted, 141 no reader."""
    args = sys.argv[1:] if argv is None else argv
    try:
        if "serve" in args:
            _handle_signals()
        from inferential.cli.exits import run_command

        code = run_command(args)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _handle_signals() -> None:
    """Has SIGHUP do nothing and SIGTERM end the process until the server handles both: to import it takes a second.

    SIGTERM ends a process that has no handler for it, but not a container's first.
    """
    hangup = getattr(signal, "SIGHUP", None)
    try:
        if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
            signal.signal(hangup, lambda number, frame: None)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    except ValueError:  # this is not the main thread
        return


if __name__ == "__main__":
    main()
