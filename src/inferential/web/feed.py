"""Produces the status for the live page: once for all viewers, four times a second at most, while there are any."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

from inferential.server import Server
from inferential.server.status import ServerStatus

INTERVAL_S = 0.25
SHARE = 0.1
"""Of the event loop's time, the part that events may take: with very many robots they come less often."""
CLIENTS_AT_ONCE = 25
_WITH_LATENESS_AT_ONCE = 4  # each takes a millisecond
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

    async def now(self) -> str:
        """Returns the whole status as JSON, with the lateness of every robot."""
        rows = await self._rows(_WITH_LATENESS_AT_ONCE, with_lateness=True)
        return _joined(self._server.overview(), rows)

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
            yield _joined(self._server.overview(), await self._rows(CLIENTS_AT_ONCE, with_lateness=False))
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
        pause_s = INTERVAL_S
        while self._viewers:
            await asyncio.sleep(pause_s)
            began = time.thread_time()
            event = await self.next_event()
            # Robots that are served between its parts count too, so that it is rather too long than too short.
            pause_s = max(INTERVAL_S, (time.thread_time() - began) / SHARE)
            for queue in self._viewers:
                _put(queue, event)
        self._task = None

    async def next_event(self) -> str:
        """Returns an event; between some clients and the next ones the event loop is left to robots."""
        rows = await self._rows(CLIENTS_AT_ONCE, with_lateness=False)
        status = self._server.overview(self._last_batch)  # of a thousand calls it would take milliseconds
        ended = [batch.number for batch in status.batches if batch.ended_s is not None]
        self._last_batch = max(ended, default=self._last_batch)
        await asyncio.sleep(0)
        return _joined(status, rows)

    async def _rows(self, at_once: int, *, with_lateness: bool) -> list[str]:
        rows = []
        client_ids = self._server.known_clients
        for at in range(0, len(client_ids), at_once):
            some = self._server.client_status(client_ids[at : at + at_once], with_lateness=with_lateness)
            rows += [_json(client) for client in some]
            await asyncio.sleep(0)
        return rows


def _joined(overview: ServerStatus, rows: list[str]) -> str:
    before, after = _json(overview).split(_NO_CLIENTS, 1)
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
