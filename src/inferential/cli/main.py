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
            _outlive_hangups()
        from inferential.cli.exits import run_command

        code = run_command(args)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _outlive_hangups() -> None:
    """Has SIGHUP do nothing until the server reads its configuration anew by it: to import it takes a second."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is not signal.SIG_DFL:
        return
    try:
        signal.signal(hangup, lambda number, frame: None)
    except ValueError:  # this is not the main thread
        return


if __name__ == "__main__":
    main()
