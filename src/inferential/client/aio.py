"""`AsyncConnection`: the robot SDK for asyncio.

The socket's descriptor is watched by the event loop itself: no thread, no polling. All use of one connection
belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from inferential.client.handles import AsyncHandles, AsyncModel
from inferential.client.mailbox import Mailbox
from inferential.client.servers import open_wire
from inferential.client.session import Frames

__all__ = ["AsyncConnection", "AsyncModel"]


class AsyncConnection(AsyncHandles):
    """`Connection` for asyncio: same arguments, same meaning, `async with`, and handles to await.

    It needs an event loop that can watch descriptors (asyncio's default on Linux and macOS, uvloop).
    """

    def __init__(
        self,
        server: str | Sequence[str] = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
    ) -> None:
        super().__init__(client_id, client_type)
        self._wire = open_wire(server, self._session.client_id, reconnect_ivl_ms, reconnect_max_ms)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None  # for what there is to do though nothing comes
        self._timer_at = math.inf

    @property
    def trouble(self) -> str | None:
        """Why the server cannot be reached, in words; None while the connection stands, as far as is known."""
        return self._wire.trouble

    def close(self) -> None:
        """Closes the connection; whoever waits in it gets a ConnectionError. Closing twice is fine."""
        if self._wire.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._wire.fd)
        self._wire.close()
        self._wake_waiters()

    def _post(self, mailbox: Mailbox, request_id: int, frames: Frames) -> None:
        if time.monotonic() >= self._wire.look_at():
            self._pump()  # the event loop was kept from it, and the server may be gone meanwhile
        if self._wire.send(self._session, mailbox, request_id, frames):
            self._wake_waiters()
        self._set_timer()

    def _start(self) -> None:
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            raise RuntimeError(
                f"the connection of client {self.client_id!r} belongs to another event loop; open one in each"
            )
        self._loop = loop
        loop.add_reader(self._wire.fd, self._pump)
        self._pump()

    def _pump(self) -> None:
        if self._wire.pump(self._session):
            self._wake_waiters()
        self._set_timer()

    def _set_timer(self) -> None:
        look_at = self._wire.look_at()
        if self._timer_at <= look_at or self._loop is None:
            return  # it rings first, finds nothing, and is set anew
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = look_at
        self._timer = self._loop.call_later(max(look_at - time.monotonic(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._pump()

    def _check_open(self) -> None:
        if self._wire.closed:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")
