"""Ties a worker process to its server: it ends when that does, however that ends, and by no signal before."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_with_server(life_fd: int) -> None:
    """Has the kernel kill this process group when the life line breaks, whatever the model is doing then.

    fcntl(2): a descriptor with O_ASYNC sends the signal of F_SETSIG, which no code can catch or hold up. With
    PR_SET_PDEATHSIG the worker would end already with the server's *thread* that started it.
    """
    import fcntl

    if not hasattr(fcntl, "F_SETSIG"):  # of Linux; elsewhere the end of the stream must do
        return
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
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
