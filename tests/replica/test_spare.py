"""A worker process in waiting: what becomes of one that cannot be prepared."""

from __future__ import annotations

import asyncio

import pytest

from inferential.replica.spare import Spare
from inferential.replica.spawn import Spawned, spawn


async def test_a_process_that_ends_before_it_is_prepared_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    started: list[Spawned] = []

    async def start() -> Spawned:
        spawned = await spawn("/bin/false", {})
        started.append(spawned)
        await asyncio.to_thread(spawned.process.wait)
        return spawned

    spare = Spare(start, {"target": "policies:arm", "args": {}, "path": []})
    spare.prepare()
    await spare.close()
    (spawned,) = started
    assert "no spare process can be started" in caplog.text
    assert (spawned.connected.fileno(), spawned.pidfd) == (-1, -1)
