"""Keeps file descriptors for robots: other services take no more connections where few are left.

One that has asked for nothing yet gives way to a newer one; where there is none, the newer one is closed.
`transport.acceptance` does what is to be done for robots when none is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

from inferential.notices import Notices
from inferential.transport.silent import SILENT

logger: logging.Logger = logging.getLogger("inferential.transport")

SHARE = 0.75
"""Of the descriptors that the process may have, the part that pages and gateways may use up."""

_LAST = 16
"""Descriptors, or a tenth of all, that robots leave as long as any connection says nothing: others find none else."""
_AT_ONCE = 8
"""Silent connections that are let go where a port cannot accept: it tries again a second later."""

if sys.platform == "win32":

    def limit() -> int | None:
        """Returns None: there is no such limit."""
        return None

else:
    import resource

    def limit() -> int | None:
        """Returns how many descriptors the process may have; None: any number."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return None if most == resource.RLIM_INFINITY else most


def is_scarce(fd: int) -> bool:
    """Returns whether few descriptors are left, by the number of one that was just opened: it is the lowest free one
    (POSIX, "File Descriptor Allocation")."""
    most = limit()
    return most is not None and fd >= most * SHARE


def is_among_last(fd: int) -> bool:
    """Returns whether hardly any descriptors are left, as `is_scarce` does."""
    most = limit()
    return most is not None and fd >= most - min(_LAST, most // 10)


def are_scarce() -> bool:
    """Returns the same where nothing was opened just now, by opening something."""
    try:
        probe = os.open(os.devnull, os.O_RDONLY)
    except OSError:  # none is left at all
        return True
    os.close(probe)
    return is_scarce(probe)


def has_room(fd: int) -> bool:
    """Returns whether a connection with a descriptor that was just opened may stay."""
    return not is_scarce(fd) or SILENT.end_one()


def is_room() -> bool:
    """Returns whether there is room for a connection that has no descriptor of its own yet, or an unknown one."""
    return not are_scarce() or SILENT.end_one()


class _Accepting:
    """Makes room where asyncio cannot accept for a port, and says so once a minute, where asyncio would each second."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._others = loop.get_exception_handler()
        self._notices = Notices(logger)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not str(context.get("message")).startswith("socket.accept() out of system resource"):
            if self._others is None:
                loop.default_exception_handler(context)
            else:
                self._others(loop, context)
            return
        text = "cannot accept connections for 1 s: %s; raise the limit of open files (ulimit -n)"
        self._notices.say("descriptors", text, context.get("exception"), level=logging.ERROR)
        for _ in range(_AT_ONCE):
            if not SILENT.end_one():
                break


def make_room_on(loop: asyncio.AbstractEventLoop) -> None:
    """Has connections that ask for nothing give way where asyncio accepts none, as no descriptor is left."""
    if not isinstance(loop.get_exception_handler(), _Accepting):
        loop.set_exception_handler(_Accepting(loop))
