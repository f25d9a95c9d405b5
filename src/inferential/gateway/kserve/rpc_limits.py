"""Bounds what requests over gRPC take: how many arrive at once, and the bytes of those that are answered.

gRPC holds a message until it is whole, however slowly it comes, and tells neither its size nor how much of it is there.
So no more than `ARRIVING` are read at once, each up to the largest size; one that is slow gives way to others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus

from inferential.gateway.receiving import MAX_BYTES, RECEIVE_S
from inferential.gateway.refusals import RequestRefused

ARRIVING = 4
STREAMS = 32
"""Open at once: each may have one request that arrives."""
PATIENCE_S = 2.0
"""How long a request may arrive while others wait for its place."""


class Room:
    """The room for requests that arrive, and for those that are answered.

    Args:
        largest: the bytes that one request may have.
    """

    def __init__(self, largest: int) -> None:
        self._most = max(MAX_BYTES, largest)
        self._turn = asyncio.Lock()  # of requests that wait for a place, in their order
        self._changed = asyncio.Event()
        self._arriving: dict[asyncio.Timeout, float] = {}  # since when
        self.used: int = 0
        """Bytes of the requests that are answered."""
        self.streams: int = 0
        """How many are open."""

    @property
    def arriving(self) -> int:
        """How many requests are read."""
        return len(self._arriving)

    @contextlib.asynccontextmanager
    async def request(self, read: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
        """Reads a request, once there is room, and keeps the room that it takes.

        Raises:
            RequestRefused: it did not come, or not in time.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                async with self._turn:
                    await self._find_place()
                    now = asyncio.get_running_loop().time()
                    self._arriving[scope] = now
                    scope.reschedule(now + RECEIVE_S)
                data = await read()
                if not scope.expired():
                    scope.reschedule(None)
        except TimeoutError:
            text = "the request did not arrive in time, or others needed the room that it takes"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, text) from None
        finally:
            self._arriving.pop(scope, None)
            self._changed.set()
        if not isinstance(data, bytes):
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "expected a request, got none")
        with self.kept(data):
            yield data

    @contextlib.contextmanager
    def kept(self, data: bytes) -> Iterator[None]:
        """Counts a request as long as it is answered."""
        self.used += len(data)
        try:
            yield
        finally:
            self.used -= len(data)
            self._changed.set()

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream of requests as long as it is open.

        Raises:
            RequestRefused: there are too many.
        """
        if self.streams >= STREAMS:
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"{STREAMS} streams are open, the most there may be")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def found(self) -> None:
        """Waits until the requests that are answered leave room for the next one of a stream."""
        while self.used >= self._most:
            self._changed.clear()
            await self._changed.wait()

    async def _find_place(self) -> None:
        """Waits until a request may be read; the one that has arrived for longest may have to go."""
        loop = asyncio.get_running_loop()
        while len(self._arriving) >= ARRIVING or self.used >= self._most:
            wait_s = None
            if len(self._arriving) >= ARRIVING:
                longest, since = next(iter(self._arriving.items()))
                wait_s = since + PATIENCE_S - loop.time()
                if wait_s <= 0:
                    del self._arriving[longest]
                    if not longest.expired():
                        longest.reschedule(loop.time())
                    continue
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
