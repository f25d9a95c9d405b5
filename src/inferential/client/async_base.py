"""What all asyncio connections share: the handles that they make, and waiting for outcomes without polling.

A connection adds how observations are sent and responses arrive: `client.aio` by a socket, a server within its process.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from inferential.client.arguments import check_names, timeout_s_of
from inferential.client.async_model import AsyncModel
from inferential.client.handle import Handle, ModelFactory, ObservationHints
from inferential.client.mailbox import Mailbox, Outcome, result_of
from inferential.client.result import ClientStats, Result
from inferential.client.session import Frames, Session, SessionSizes
from inferential.wall_clock import wall_ns

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncConnectionBase(ModelFactory[AsyncModel]):
    """A connection whose handles' methods are coroutines; it belongs to one event loop."""

    def __init__(self, client_id: str | int, client_type: str) -> None:
        check_names(client_id, client_type)
        self._session = Session(client_id, client_type)
        self._waiters: set[asyncio.Future[None]] = set()

    @abstractmethod
    def _post(self, mailbox: Mailbox, request_id: int, frames: Frames) -> None:
        """Sends an observation, or lets the session hold it."""

    @abstractmethod
    def _start(self) -> None:
        """Called on the event loop before each use.

        Raises:
            ConnectionError: it was closed.
        """

    def _pump(self) -> None:
        """Reads the responses that arrived."""

    def _take_back(self, request_ids: Sequence[int]) -> None:
        """Takes sent requests back from the server, if there are any."""

    def _cancel(self, mailbox: Mailbox) -> int:
        self._start()
        count, sent = self._session.cancel(mailbox)
        self._take_back(sent)
        self._wake_waiters()
        return count

    @abstractmethod
    def close(self) -> None:
        """Closes the connection; tasks that wait in it raise ConnectionError. Closing twice does nothing."""

    @property
    def client_id(self) -> str:
        """The client id that identifies this connection on the server."""
        return self._session.client_id

    @property
    def stats(self) -> ClientStats:
        """Counts of observations and of what became of them; live, not a copy."""
        return self._session.stats

    @property
    def waiting(self) -> int:
        """How many tasks wait in `get_result` or `infer` now."""
        return len(self._waiters)

    def sizes(self) -> SessionSizes:
        """Returns the sizes of what the connection holds in memory; all are bounded while its handles are."""
        return self._session.sizes()

    def _open_model(self, handle: Handle) -> AsyncModel:
        self._check_open()
        return AsyncModel(self, self._session.mailbox(handle))

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _observe(self, mailbox: Mailbox, values: Mapping[str, Any], hints: ObservationHints, keep: bool) -> int:
        self._start()
        now, timestamp_ns = time.monotonic(), wall_ns()
        content = mailbox.handle.content(values, hints)
        request_id, frames = self._session.observe(mailbox, content, hints, now, timestamp_ns, keep)
        self._post(mailbox, request_id, frames)
        return request_id

    def _heard_s_ago(self) -> float:
        """Returns how long ago anything came from the server; a server within the process is always there."""
        return 0.0

    def _nudge(self) -> None:
        """Sends the server a heartbeat out of turn; a server within the process needs none."""

    def _reset(self, model_id: str) -> None:
        self._start()
        self._session.reset(model_id)
        self._wake_waiters()

    async def _infer(
        self, mailbox: Mailbox, values: Mapping[str, Any], hints: ObservationHints, timeout_ms: float
    ) -> Result | None:
        timeout_s = timeout_s_of(timeout_ms)
        request_id = self._observe(mailbox, values, hints, True)
        outcome = None
        try:
            outcome = await self._wait(lambda: mailbox.take_kept(request_id), timeout_s)
        finally:
            if outcome is None:
                self._take_back(self._session.abandon(mailbox, request_id))
        try:
            return result_of(outcome)
        finally:
            del outcome  # see there

    async def _wait(self, take: Callable[[], Outcome | None], timeout_s: float) -> Outcome | None:
        self._start()
        self._pump()
        outcome = take()
        if outcome is None and timeout_s > 0:
            outcome = await self._sleep_until(take, timeout_s)
        return outcome

    async def _sleep_until(self, take: Callable[[], Outcome | None], timeout_s: float) -> Outcome | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
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

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            _finish(waiter)

    @abstractmethod
    def _check_open(self) -> None:
        """Raises ConnectionError if the connection was closed."""


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
