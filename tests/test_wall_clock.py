"""Stamps of a clock that shows times no stamp has."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from inferential import Connection, LocalDispatcher, Server
from inferential.wall_clock import wall_ns

YEAR_NS = 365 * 86_400 * 10**9


@pytest.mark.parametrize(
    ("shown_ns", "stamp_ns"), [(-1, 0), (-(2**70), 0), (0, 0), (1, 1), (2**64 - 1, 2**64 - 1), (2**64, 0)]
)
def test_a_time_that_no_stamp_has_is_none(monkeypatch: pytest.MonkeyPatch, shown_ns: int, stamp_ns: int) -> None:
    monkeypatch.setattr("time.time_ns", lambda: shown_ns)
    assert wall_ns() == stamp_ns


@pytest.mark.parametrize("shown_ns", [-10 * YEAR_NS, 600 * YEAR_NS])
async def test_a_robot_and_a_server_with_such_a_clock_work(monkeypatch: pytest.MonkeyPatch, shown_ns: int) -> None:
    began_ns = time.monotonic_ns()
    monkeypatch.setattr("time.time_ns", lambda: shown_ns + time.monotonic_ns() - began_ns)
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": lambda seen: seen["state"]})) as server:

        def ask() -> list[object]:
            with Connection(server.address, "robot") as robot:
                return [robot.model("m").infer(60_000, state=np.ones(3, np.float32)) for _ in range(3)]

        assert None not in await asyncio.to_thread(ask)
