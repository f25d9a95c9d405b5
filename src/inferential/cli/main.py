"""Where `inferential` starts.

What the command line is made of is imported where Ctrl-C is handled already, as it is while a command runs.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 well, 1 `check` found problems, 2 an error, 130 interrupted, 141 no reader."""
    try:
        from inferential.cli.exits import run_command

        code = run_command(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
