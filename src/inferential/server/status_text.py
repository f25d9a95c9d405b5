"""The status of a server as JSON, made a part at a time: of a thousand robots it takes 0.1 s, and robots are served
between the parts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from inferential.server.view import ServerView

_WITH_LATENESS_AT_ONCE = 4
_NO_CLIENTS = '"clients":[]'
Made = TypeVar("Made")
Parts = Generator[None, None, Made]
"""Makes something a part at a time; between the parts the event loop is left to robots."""


async def made(parts: Parts[Made]) -> tuple[Made, float]:
    """Returns what parts make, each in a turn of the loop of its own, and the CPU time that they took together."""
    took_s = 0.0
    while True:
        began = time.thread_time()
        try:
            next(parts)
        except StopIteration as ended:
            return ended.value, took_s + time.thread_time() - began
        took_s += time.thread_time() - began
        await asyncio.sleep(0)


def whole_status(server: ServerView) -> Parts[str]:
    """Makes the whole status, with the lateness of every robot."""
    rows = yield from robot_rows(server, server.known_clients, _WITH_LATENESS_AT_ONCE, with_lateness=True)
    return joined(as_json(server.overview()), list(rows.values()))


def robot_rows(
    server: ServerView, client_ids: Sequence[str], at_once: int, *, with_lateness: bool
) -> Parts[dict[str, str]]:
    """Makes the status of these robots, by id, so many in a part."""
    rows: dict[str, str] = {}
    for at in range(0, len(client_ids), at_once):
        some = server.client_status(client_ids[at : at + at_once], with_lateness=with_lateness)
        rows |= {client.client_id: as_json(client) for client in some}
        yield
    return rows


def joined(overview: str, rows: Sequence[str], left: Sequence[str] | None = None) -> str:
    """Returns an overview with rows of robots, and the ids of those that have left, if that is not None."""
    before, after = overview.split(_NO_CLIENTS, 1)
    gone = "" if left is None else f'"left":{as_json(left)},'
    return f'{before}{gone}"clients":[{",".join(rows)}]{after}'


_NAMES: dict[type, tuple[str, ...]] = {}  # of the fields of each part of the status
as_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=lambda status: _fields(status)).encode
"""Returns a part of the status, or what is in one, as JSON."""


def _fields(status: Any) -> dict[str, Any]:
    """Returns a part of the status as a dict; unlike `dataclasses.asdict`, without a copy of what is in it."""
    names = _NAMES.get(type(status))
    if names is None:
        names = _NAMES[type(status)] = tuple(field.name for field in fields(status))
    return {name: getattr(status, name) for name in names}
