"""How a worker process waits for its next call: asleep, but for the moment in which one was announced.

A process takes 50 us to wake, as long as its server reads an observation and writes its call. So the server announces
a call as soon as an observation has come, and the process is awake when the call is there.
"""

from __future__ import annotations

import select
import socket
from time import perf_counter  # not by way of the module: a model may replace what that has

LOOK_S = 200e-6
"""How long it looks for a call that was announced, at most."""


class CallWait:
    """Waits until there is something to read.

    Args:
        stream: to the server.
    """

    def __init__(self, stream: socket.socket) -> None:
        # Who sleeps in recv() is woken by Linux not only for what comes: also when the server has read what was sent.
        self._readable = select.poll()
        self._readable.register(stream, select.POLLIN)

    def sleep(self) -> None:
        """Returns once there is something to read."""
        self._readable.poll()

    def look(self) -> bool:
        """Looks for something to read, for LOOK_S at most; returns whether there is."""
        poll, until = self._readable.poll, perf_counter() + LOOK_S
        while not poll(0):
            if perf_counter() >= until:
                return False
        return True
