"""Models that never wait are called within the turn in which their request arrived, at no other task's expense."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Gate, Serve
from tests.turns import Turns

from inferential import AsyncConnection
from inferential.scheduler.engine import Batch, Engine

Connect = Callable[..., AsyncConnection]
STATE = np.zeros(3, np.float32)


async def at_once(observation: dict[str, Any]) -> dict[str, Any]:
    """A model that never waits."""
    return observation


async def test_a_robots_request_is_run_inline(serve: Serve, connect: Connect) -> None:
    async with serve({"m": at_once}) as server:
        model = connect(server, "robot").model("m")
        for number in range(3):
            result = await model.infer(60_000, state=np.full(3, number, np.float32))
            assert result is not None
            assert result["state"].tolist() == [number] * 3
        counters = server.status().counters
        assert counters["calls_as_tasks"] <= 1  # the first request of a client goes through the queue
        assert counters["calls_inline"] >= 2


async def test_an_in_process_client_in_a_tight_loop_lets_other_tasks_run(serve: Serve) -> None:
    async with serve({"m": at_once}) as server, server.connect("tool") as tool:
        model = tool.model("m")
        async with Turns() as turns:
            for _ in range(50):
                assert await model.infer(60_000, state=STATE) is not None
        assert turns.count >= 50


@pytest.mark.parametrize("event", ["on_request", "on_batch"])
async def test_a_callback_that_raises_cancelled_error_affects_no_other_request(
    event: str, serve: Serve, connect: Connect
) -> None:
    async with serve({"left": at_once, "right": at_once}) as server:
        left, right = connect(server, "left").model("left"), connect(server, "right").model("right")

        def both() -> Awaitable[list[Any]]:
            return asyncio.gather(left.infer(60_000, state=STATE), right.infer(60_000, state=STATE))

        await both()
        outcome, failed = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: outcome.append(context["exception"]))

        @getattr(server, event)
        def cancelled(*_: Any) -> None:
            if not failed:
                failed.append(True)
                raise asyncio.CancelledError("of a callback")

        assert None not in await both()
        assert None not in await both()
        assert [str(error) for error in outcome] == ["of a callback"]
        assert server.status().in_flight == 0


async def test_waiting_requests_are_scheduled_with_the_time_after_an_inline_call(
    serve: Serve, connect: Connect, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_at = 0.0

    async def slow(observation: dict[str, Any]) -> dict[str, Any]:
        nonlocal ended_at
        time.sleep(0.02)  # noqa: ASYNC251 (it blocks the loop, as it may not)
        ended_at = time.monotonic()
        return observation

    async with serve({"busy": gate, "slow": slow}) as server:
        busy, model = connect(server, "one").model("busy", queue="all"), connect(server, "two").model("slow")
        await model.infer(60_000, state=STATE)
        await busy.observe(state=STATE)
        await gate.wait_entered()
        await busy.observe(state=STATE)  # which waits
        while not server.status().waiting:  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0.001)
        looked, work = [], Engine.work

        def spy(engine: Engine, now: float) -> list[Batch]:
            looked.append((now, ended_at))
            return work(engine, now)

        monkeypatch.setattr(Engine, "work", spy)
        await model.infer(60_000, state=STATE)
        assert looked
        assert all(now >= ended for now, ended in looked)
        gate.let(2)
