"""Produces the status for the live page: once for all viewers, four times a second at most, while there are any.

The first event of a stream has every robot. Of many robots each that follows has some, in turn, so that what an open
page costs does not grow with the fleet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import islice

from inferential.notices import Notices
from inferential.server import Server
from inferential.server.status_text import Parts, as_json, joined, made, robot_rows, whole_status

logger: logging.Logger = logging.getLogger("inferential")

INTERVAL_S = 0.25
ROBOTS_EACH = 100
"""In an event, at most: each of a thousand robots is shown anew within 10 s."""
CALLS_EACH = 64
"""Of models, in an event, at most: of more than that the page draws some."""
SHARE = 0.1
"""Of the event loop's time, the part that whole statuses may take: one that takes long is given again."""
EVENTS_SHARE = 0.005
"""The same of events, which come less often where they take longer: half a percent moves no robot's p99."""
LONGEST_S = 2.0
"""Between two events, however long one took, as where Python's collector ran meanwhile: the page stays live."""
CLIENTS_AT_ONCE = 10
_MISSED = ""  # in place of an event: the viewer is to get all robots, as it missed some


class Feed:
    """Produces the server's status as events, each with the batches that are new since the event before.

    Args:
        server: the running server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._viewers: set[asyncio.Queue[str | None]] = set()
        self._calls_seen = 0  # of those that have ended, how many were in an event, or passed over
        self._rows: dict[str, str] = {}  # of each robot, as it was last sent
        self._at = 0  # where in the list of robots the next event goes on
        self._whole = ""
        self._whole_until = -1.0
        self._making: asyncio.Task[str] | None = None
        self._notices = Notices(logger)

    async def now(self) -> str:
        """Returns the whole status as JSON, with the lateness of every robot.

        A caller that asks while one is made gets that one; it is given again for ten times as long as it took.
        """
        if self._making is None:
            if time.monotonic() < self._whole_until:
                return self._whole
            self._making = asyncio.get_running_loop().create_task(self._make_whole())
        return await asyncio.shield(self._making)

    async def _make_whole(self) -> str:
        try:
            self._whole, took_s = await made(whole_status(self._server))
        finally:
            self._making = None
        self._whole_until = time.monotonic() + took_s / SHARE
        return self._whole

    def robot(self, client_id: str) -> str | None:
        """Returns one robot in full as JSON; None: it is not known."""
        found = self._server.robot(client_id)
        return None if found is None else as_json(found)

    @property
    def viewers(self) -> int:
        """How many streams of events are open."""
        return len(self._viewers)

    async def events(self) -> AsyncGenerator[str, None]:
        """Yields the whole status now, then what changes; a viewer that is too slow misses some of that.

        What changes has `left`: the ids of the robots that the status has no longer. Those of which it has nothing are
        as they were. An event with `error` alone says that the status could not be made.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
        self._viewers.add(queue)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            missing = [client_id for client_id in self._server.known_clients if client_id not in self._rows]
            rows, _ = await made(robot_rows(self._server, missing, CLIENTS_AT_ONCE, with_lateness=False))
            self._rows |= rows
            yield self._snapshot()
            while (event := await queue.get()) is not None:
                if event == _MISSED:
                    try:
                        event = self._snapshot()
                    except Exception as error:
                        event = self._failed(error)
                yield event
        finally:
            self._viewers.discard(queue)

    def _snapshot(self) -> str:
        return joined(as_json(self._server.overview(0, CALLS_EACH)), list(self._rows.values()))

    def _failed(self, error: Exception) -> str:
        """Logs why a status could not be made, and returns what viewers get in its place."""
        kind = type(error).__name__
        self._notices.say(kind, "the page cannot be shown: %s: %s", kind, error, level=logging.ERROR)
        return as_json({"error": f"{kind}: the server's log says more"})

    def close(self) -> None:
        """Ends all streams of events."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for queue in self._viewers:
            _empty(queue)
            queue.put_nowait(None)

    async def _run(self) -> None:
        pause_s = INTERVAL_S
        while self._viewers:
            await asyncio.sleep(pause_s)
            try:
                event, took_s = await made(self._next_parts())
            except Exception as error:  # of one part of the status, and maybe for a moment
                event, took_s = self._failed(error), 0.0
            pause_s = pause_after(took_s)
            for queue in self._viewers:
                missed = queue.full()
                if missed:
                    _empty(queue)
                queue.put_nowait(_MISSED if missed else event)
        self._task = None
        self._rows.clear()

    async def next_event(self) -> str:
        """Returns an event."""
        return (await made(self._next_parts()))[0]

    def _next_parts(self) -> Parts[str]:
        known = self._server.known_clients
        left = self._rows.keys() - set(known)
        for client_id in left:
            del self._rows[client_id]
        rows = yield from robot_rows(self._server, self._next_of(known), CLIENTS_AT_ONCE, with_lateness=False)
        self._rows |= rows
        status = self._server.overview(self._calls_seen, CALLS_EACH)  # of a thousand calls it would take milliseconds
        self._calls_seen = status.counters["calls_ended"]
        yield
        overview = as_json(status)
        yield
        return joined(overview, list(rows.values()), sorted(left))

    def _next_of(self, known: Sequence[str]) -> Sequence[str]:
        """Returns the robots of the next event: new ones first."""
        if len(known) <= ROBOTS_EACH:
            return known
        some = list(islice((client_id for client_id in known if client_id not in self._rows), ROBOTS_EACH))
        count, at = ROBOTS_EACH - len(some), self._at % len(known)
        self._at = at + count
        return [*some, *known[at : at + count]]


def pause_after(took_s: float) -> float:
    """Returns the seconds until the next event, where one took so many of CPU time."""
    return min(max(INTERVAL_S, took_s / EVENTS_SHARE), LONGEST_S)


def _empty(queue: asyncio.Queue[str | None]) -> None:
    while not queue.empty():
        queue.get_nowait()
