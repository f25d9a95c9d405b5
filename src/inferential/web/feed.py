"""Produces the status for the live page: once for all viewers, four times a second, only while there are any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from itertools import islice
from typing import Any

from inferential.server import Server

INTERVAL_S = 0.25
AT_ONCE = 20
"""Clients, or calls, that are written before the event loop is left to robots."""


class Feed:
    """Produces the server's status as events, each with the batches that are new since the event before.

    Args:
        server: the running server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._viewers: set[asyncio.Queue[str | None]] = set()
        self._last_batch = 0

    async def now(self) -> str:
        """Returns the whole status as JSON; between some clients and the next ones the event loop is left to robots."""
        return (await self._status(0))[0]

    async def events(self) -> AsyncIterator[str]:
        """Yields the status now, then every change; a viewer that is too slow misses some."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
        self._viewers.add(queue)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield await self.now()
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._viewers.discard(queue)

    def close(self) -> None:
        """Ends all streams of events."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for queue in self._viewers:
            _put(queue, None)

    async def _run(self) -> None:
        while self._viewers:
            await asyncio.sleep(INTERVAL_S)
            event = await self.next_event()
            for queue in self._viewers:
                _put(queue, event)
        self._task = None

    async def next_event(self) -> str:
        """Returns an event, with the calls that are new since the one before; otherwise as `now`."""
        text, self._last_batch = await self._status(self._last_batch)
        return text

    async def _status(self, batches_after: int) -> tuple[str, int]:
        """Returns the status with the calls after this number, and the highest number of those that ended."""
        clients: list[str] = []
        client_ids = self._server.known_clients
        for at in range(0, len(client_ids), AT_ONCE):
            clients += map(_json, self._server.client_status(client_ids[at : at + AT_ONCE]))
            await asyncio.sleep(0)
        last, calls, batches = batches_after, self._server.calls(batches_after), list[str]()
        while some := list(islice(calls, AT_ONCE)):
            last = max([last, *(call.number for call in some if call.ended_s is not None)])
            batches += map(_json, some)
            await asyncio.sleep(0)
        text = _json(self._server.overview())
        for name, rows in (("clients", clients), ("batches", batches)):
            before, after = text.split(f'"{name}":[]', 1)
            text = f'{before}"{name}":[{",".join(rows)}]{after}'
        return text, last


def _put(queue: asyncio.Queue[str | None], event: str | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_fields)


def _fields(status: Any) -> dict[str, Any]:
    """Returns a part of the status as a dict; unlike `dataclasses.asdict`, without a copy of what is in it."""
    return {field.name: getattr(status, field.name) for field in fields(status)}
