"""`AsyncConnection` and `AsyncModel`: the robot SDK for asyncio.

The socket's descriptor is watched by the event loop itself: no thread, no polling. All use of one connection
belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import zmq

from inferential.client import wire
from inferential.client.encoding import EncodingRules
from inferential.client.result import ClientStats, Result
from inferential.client.session import UNTOLD_BUDGET_MS, Handle, LateChoice, Mailbox, Outcome, QueueChoice, Session
from inferential.errors import InferenceError


class AsyncConnection:
    """`Connection` for asyncio: same arguments, same meaning, `async with`, and handles to await.

    It needs an event loop that can watch descriptors (asyncio's default on Linux and macOS, uvloop; on Windows the
    selector loop).
    """

    def __init__(
        self,
        server: str = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
    ) -> None:
        self._session = Session(client_id, client_type)
        self._socket = wire.open_socket(server, self._session.client_id, reconnect_ivl_ms, reconnect_max_ms)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def client_id(self) -> str:
        """The id that the server knows this connection by."""
        return self._session.client_id

    @property
    def stats(self) -> ClientStats:
        """What became of the observations so far; live, not a copy."""
        return self._session.stats

    def model(
        self,
        model_id: str,
        latency_budget_ms: float = UNTOLD_BUDGET_MS,
        priority: int = 1,
        *,
        queue: QueueChoice = "latest",
        encode: Mapping[str, str] | None = None,
        control_rate_hz: float | None = None,
        late: LateChoice | None = None,
    ) -> AsyncModel:
        """A handle to one model of the server; the arguments are those of `Connection.model`."""
        self._check_open()
        handle = Handle(model_id, latency_budget_ms, priority, queue, EncodingRules(encode), control_rate_hz, late)
        return AsyncModel(self, self._session.mailbox(handle))

    def close(self) -> None:
        """Closes the connection; whoever waits in it gets a ConnectionError. Closing twice is fine."""
        if self._socket.closed:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._socket.close(linger=0)
        self._wake_waiters()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _observe(self, mailbox: Mailbox, values: Mapping[str, Any], keep: bool, **told: Any) -> int:
        self._start()
        now, timestamp_ns = time.monotonic(), time.time_ns()
        values = mailbox.handle.rules.apply(values)
        request_id, frames = self._session.observe(
            mailbox, values, now=now, timestamp_ns=timestamp_ns, keep=keep, **told
        )
        if wire.send(self._socket, self._session, mailbox, request_id, frames):
            self._wake_waiters()
        # The descriptor signals edges, and sending may have consumed one.
        self._pump()
        return request_id

    async def _wait(self, take: Callable[[], Outcome | None], timeout_ms: float) -> Result | None:
        self._start()
        self._pump()
        outcome = take()
        if outcome is None and timeout_ms > 0:
            outcome = await self._sleep_until(take, timeout_ms)
        if isinstance(outcome, InferenceError):
            raise outcome
        return outcome

    async def _sleep_until(self, take: Callable[[], Outcome | None], timeout_ms: float) -> Outcome | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1e3
        while True:
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            timer = loop.call_at(deadline, _finish, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiters.discard(waiter)
            self._check_open()
            outcome = take()
            if outcome is not None or loop.time() >= deadline:
                return outcome

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
        loop.add_reader(self._fd, self._pump)

    def _pump(self) -> None:
        if wire.pump(self._socket, self._session):
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            _finish(waiter)

    def _check_open(self) -> None:
        if self._socket.closed:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")


class AsyncModel:
    """A handle to one model; made by `AsyncConnection.model`."""

    def __init__(self, connection: AsyncConnection, mailbox: Mailbox) -> None:
        self._connection = connection
        self._mailbox = mailbox
        self._model_id = mailbox.handle.model_id

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self._model_id

    @property
    def serve_interval_ms(self) -> float:
        """The shortest interval at which the server can serve this robot, by its newest response; 0: no limit."""
        return self._mailbox.serve_interval_ms

    async def observe(
        self,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> int:
        """Sends an observation; as `Model.observe`, and it never waits."""
        return self._connection._observe(
            self._mailbox, values, False, urgency=urgency, steps_remaining=steps_remaining, priority=priority
        )

    async def get_result(self, timeout_ms: float = 100) -> Result | None:
        """The next result of this handle; as `Model.get_result`."""
        return await self._connection._wait(self._mailbox.take, timeout_ms)

    async def infer(
        self,
        timeout_ms: float = 100,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> Result | None:
        """Sends an observation and waits for the answer to this very one; as `Model.infer`."""
        request_id = self._connection._observe(
            self._mailbox, values, True, urgency=urgency, steps_remaining=steps_remaining, priority=priority
        )
        try:
            return await self._connection._wait(lambda: self._mailbox.take_kept(request_id), timeout_ms)
        finally:
            self._connection._session.abandon(self._mailbox, request_id)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
