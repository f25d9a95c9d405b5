"""`AsyncConnection`: the robot SDK for asyncio.

The socket's descriptor is watched by the event loop itself: no thread, no polling. All use of one connection
belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import NoReturn

from inferential.client.async_base import AsyncConnectionBase
from inferential.client.async_model import AsyncModel
from inferential.client.failover import open_transport
from inferential.client.fork import cannot_be_copied, forked, leave_to_parent
from inferential.client.keys import client_id_with, robot_keys
from inferential.client.mailbox import Mailbox
from inferential.client.result import ClientStats
from inferential.client.session import Frames

__all__ = ["AsyncConnection", "AsyncModel"]


class AsyncConnection(AsyncConnectionBase):
    """Connects a robot to an Inferential server, for asyncio: the arguments are those of `Connection`.

    Its handles' methods are coroutines. It belongs to one event loop, which must be able to watch descriptors
    (asyncio's default on Linux and macOS, uvloop), and is an asynchronous context manager.

    Raises:
        TypeError, ValueError: naming an argument, its value and what is expected.

    Example:
        ```python
        import asyncio
        import numpy as np
        from inferential import AsyncConnection

        async def main():
            async with AsyncConnection("localhost:5555", client_id="arm-01") as connection:
                policy = connection.model("policy")
                await policy.observe(state=np.zeros(7, dtype=np.float32))
                result = await policy.get_result(timeout_ms=1000)
                assert result is not None
                print(result["actions"])

        asyncio.run(main())
        ```
    """

    def __init__(
        self,
        server: str | Sequence[str] = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
        server_key: str | Sequence[str] | None = None,
        secret_key: str | None = None,
    ) -> None:
        keys = robot_keys(server_key, secret_key)
        super().__init__(client_id_with(client_id, keys), client_type)
        self._transport = open_transport(server, self._session.client_id, reconnect_ivl_ms, reconnect_max_ms, keys)
        self._forked = False
        leave_to_parent(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None  # for what there is to do though nothing comes
        self._timer_at = math.inf
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # it goes on when it is first used
        self._start()  # a server ends a connection whose handshake stands still, as while the robot sets up its cameras

    @property
    def last_error(self) -> str | None:
        """Why the server cannot be reached, in words; None while it is connected, as far as is known."""
        return self._transport.last_error

    @property
    def stats(self) -> ClientStats:
        """Counts of observations and of what became of them, live, not a copy, and what is known of the link."""
        self._session.stats.note_link(self._transport.delivery)
        return self._session.stats

    def close(self) -> None:
        """Closes the connection; tasks that wait in it raise ConnectionError. Closing twice does nothing."""
        if self._transport.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._transport.fd)
        self._transport.close()
        self._wake_waiters()

    def _post(self, mailbox: Mailbox, request_id: int, frames: Frames) -> None:
        if time.monotonic() >= self._transport.next_poll_at():
            self._pump()  # the event loop was busy, and the server may be gone meanwhile
        if self._transport.send(self._session, mailbox, request_id, frames):
            self._wake_waiters()
        self._set_timer()

    def _take_back(self, request_ids: Sequence[int]) -> None:
        if not self._transport.closed:
            self._transport.cancel(self._session, request_ids)

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
        loop.add_reader(self._transport.fd, self._pump)
        self._pump()

    def _pump(self) -> None:
        if self._forked:  # a child that goes on in the parent's event loop: what comes is the parent's to read
            self._wake_waiters()
            return
        if self._transport.pump(self._session):
            self._wake_waiters()
        self._set_timer()

    def _set_timer(self) -> None:
        next_poll_at = self._transport.next_poll_at()
        if self._timer_at <= next_poll_at or self._loop is None:
            return  # it rings first, finds nothing, and is set anew
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = next_poll_at
        self._timer = self._loop.call_later(max(next_poll_at - time.monotonic(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._pump()

    def _heard_s_ago(self) -> float:
        return self._transport.heard_s_ago()

    def _nudge(self) -> None:
        self._check_open()
        self._transport.nudge()
        self._set_timer()

    def __reduce__(self) -> NoReturn:
        raise cannot_be_copied(self.client_id)

    def _after_fork(self) -> None:
        """Leaves the connection to the parent: in the child nothing of it may be read, written or shut down."""
        self._forked = self._transport.closed = True

    def _check_open(self) -> None:
        if self._forked:
            raise forked(self.client_id)
        if self._transport.closed:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")
