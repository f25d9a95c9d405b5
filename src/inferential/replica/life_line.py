"""Ties a worker process to its server: it ends when that does, however that ends."""

from __future__ import annotations

import os
import signal


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
