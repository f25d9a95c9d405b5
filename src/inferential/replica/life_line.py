"""Ties a worker process to its server: it ends when that does, however that ends, and by no signal before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from types import FrameType
from typing import Protocol
from weakref import WeakSet


class End(Protocol):
    """A socket or a file."""

    def fileno(self) -> int:
        """Returns its descriptor."""


_held: WeakSet[End] = WeakSet()


def hold_alone(*ends: End) -> None:
    """Has what the server forks not hold these, its ends of what ties a worker to it: they are open while anyone does.

    What it starts as another program has none of them.
    """
    for end in ends:
        _held.add(end)


def _let_go() -> None:
    """Replaces them in a process that was forked, and does not leave them closed: an object that has the number would
    close what comes to have it next."""
    for end in list(_held):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            number = end.fileno()
            os.close(number)  # first, as no other may be free; no other thread takes it, since there is none yet
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            if null != number:
                os.dup2(null, number, inheritable=False)
                os.close(null)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def tie(life_fd: int, owner: int) -> None:
    """Has the kernel kill a process when the life line breaks, whatever that process is doing then.

    fcntl(2): a descriptor with O_ASYNC sends the signal of F_SETSIG, which no code can catch or hold up. With
    PR_SET_PDEATHSIG the worker would end already with the server's *thread* that started it.

    Args:
        life_fd: of the end that is never written to; its settings are those of each process that has inherited it.
        owner: id of the process; negative: that of a process group.

    Raises:
        OSError: there is no such process.
    """
    if not hasattr(fcntl, "F_SETSIG"):  # of Linux; elsewhere the end of the stream must do
        return
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, owner)
    fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)


def end_with_server(life_fd: int) -> None:
    """Ties this process and its group to the server, as the server did when it had started it; in the worker."""
    tie(life_fd, -os.getpgrp())
    with contextlib.suppress(OSError):  # no /proc
        # Opened anew it has settings of its own: this process may leave its group.
        tie(os.open(f"/proc/self/fd/{life_fd}", os.O_RDONLY | os.O_CLOEXEC), os.getpid())
    import select

    if select.select([life_fd], [], [], 0)[0]:  # it broke before there was a signal
        os._exit(0)


def leave_signals_to_server() -> None:
    """Lets SIGTERM and SIGINT pass: a service may be ended by a signal to all its processes, as systemd does it, and
    then the server drains, for which it needs this one.

    What the model starts gets them as usual: exec(2) undoes a handler, as it does not undo SIG_IGN, and so does a fork.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _pass)
    os.register_at_fork(after_in_child=_as_usual)


def _pass(number: int, frame: FrameType | None) -> None: ...


def _as_usual() -> None:
    if signal.getsignal(signal.SIGTERM) is _pass:  # and the model has no handler of its own
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is _pass:
        signal.signal(signal.SIGINT, signal.default_int_handler)
