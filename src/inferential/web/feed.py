"""Produces the status for the live page: once for all viewers, four times a second, only while there are any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

from inferential.server import Server

INTERVAL_S = 0.25
CLIENTS_AT_ONCE = 50
_NO_CLIENTS = '"clients":[]'


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

    def now(self) -> str:
        """Returns the whole status as JSON."""
        return _json(self._server.status())

    def robot(self, client_id: str) -> str | None:
        """Returns one robot in full as JSON; None: it is not known."""
        found = self._server.robot(client_id)
        return None if found is None else _json(found)

    async def events(self) -> AsyncIterator[str]:
        """Yields the status now, then every change; a viewer that is too slow misses some."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
        self._viewers.add(queue)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield self.now()
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
        """Returns an event; between some clients and the next ones the event loop is left to robots."""
        rows = []
        client_ids = self._server.known_clients
        for at in range(0, len(client_ids), CLIENTS_AT_ONCE):
            some = self._server.client_status(client_ids[at : at + CLIENTS_AT_ONCE], with_lateness=False)
            rows += [_json(client) for client in some]
            await asyncio.sleep(0)
        status = self._server.overview()
        batches = [batch for batch in status.batches if batch.ended_s is None or batch.number > self._last_batch]
        ended = [batch.number for batch in status.batches if batch.ended_s is not None]
        self._last_batch = max(ended, default=0)
        status.batches[:] = batches
        before, after = _json(status).split(_NO_CLIENTS, 1)
        return f'{before}"clients":[{",".join(rows)}]{after}'


def _put(queue: asyncio.Queue[str | None], event: str | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_fields)


def _fields(status: Any) -> dict[str, Any]:
    """Returns a part of the status as a dict; unlike `dataclasses.asdict`, without a copy of what is in it."""
    return {field.name: getattr(status, field.name) for field in fields(status)}
