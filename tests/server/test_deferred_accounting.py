"""Records that are deferred until after a call are written before they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Gate, Serve

from inferential.scheduler.engine import Engine
from inferential.scheduler.request import InferenceRequest

STATE = np.zeros(3, np.float32)


async def at_once(observation: dict[str, Any]) -> dict[str, Any]:
    """A model that never waits."""
    return observation


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)


async def test_the_status_includes_a_request_that_has_just_arrived(serve: Serve) -> None:
    async with serve({"m": at_once}) as server, server.connect("robot") as connection:
        await connection.model("m").infer(60_000, state=STATE)
        await connection.model("m").observe(state=STATE)
        (client,) = server.status().clients
        assert client.requests == 2
        assert server.metrics.get_stats("payload_size_bytes").count == 2  # type: ignore[union-attr]


async def test_an_inline_answer_to_a_client_that_disconnected_is_invalidated(serve: Serve) -> None:
    async with serve({"m": at_once}) as server, server.connect("robot") as connection:
        await connection.model("m").infer(60_000, state=STATE)
        await connection.model("m").observe(state=STATE)
        connection.close()
        await until(lambda: server.metrics.get_stats("invalidation_count") is not None)


async def test_a_request_that_fails_inline_is_accounted_for_when_it_is_queued_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    due: list[float] = []

    async def flaky(observation: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("once")
        return observation

    config = {"scheduling": {"max_retries": 1}, "response_tracking": {"cadence_alpha": 1.0}}
    async with serve({"m": flaky}, config) as server, server.connect("robot") as connection:
        retry = Engine.retry

        def spy(engine: Engine, request: InferenceRequest, now: float) -> None:
            due.append(request.time_until_next)
            retry(engine, request, now)

        monkeypatch.setattr(Engine, "retry", spy)
        for _ in range(4):
            assert await connection.model("m").infer(60_000, state=STATE) is not None
            await asyncio.sleep(0.02)
    assert len(due) == 1
    assert due[0] > 0.0


async def test_a_client_that_waits_for_longer_than_the_time_out_is_answered_and_forgotten_then(
    serve: Serve, gate: Gate
) -> None:
    tracking = {"response_tracking": {"disconnect_timeout_s": 0.2}}
    async with serve({"m": gate}, tracking) as server, server.connect("robot") as connection:
        await connection.model("m").observe(state=STATE)
        await gate.wait_entered()
        await asyncio.sleep(0.5)  # its time-out has passed
        assert server.connected_robots == ["robot"]
        gate.let()
        await until(lambda: server.status().in_flight == 0)
        await until(lambda: not server.connected_robots and not server.status().sizes["timers"])


@pytest.mark.parametrize("strategy", ["deadline_aware", "round_robin"])
async def test_all_records_are_written_once_the_server_has_drained(serve: Serve, strategy: str) -> None:
    config = {"scheduling": {"strategy": strategy}}
    async with serve({"m": at_once}, config) as server, server.connect("robot") as connection:
        await connection.model("m").infer(60_000, state=STATE)
        await connection.model("m").observe(state=STATE)
        await server.drain()
        assert server.metrics.get_stats("responses_served").count == 2  # type: ignore[union-attr]
