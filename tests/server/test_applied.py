"""What robots say of the actions that they have applied: ages to the end, in status and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Serve, echo
from tests.server.test_hostile import dealer, observation

from inferential import AsyncConnection, Connection
from inferential.client import ChunkRuntime
from inferential.proto import Applied, Observation

STATE = np.zeros(3, np.float32)


def use_of(server: Any) -> Any:
    return server.status().clients[0].models[0]


async def test_the_server_shows_how_old_actions_are_when_the_robot_reads_them(
    serve: Serve, pass_time: Callable[[float], None]
) -> None:
    async with serve({"m": echo}) as server:

        def sent() -> int:
            stats = server.metrics.get_stats("responses_served")
            return 0 if stats is None else stats.count

        def drive() -> list[float]:
            ages = []
            with Connection(server.address, client_id="arm") as connection:
                model = connection.model("m", latency_budget_ms=2000.0)
                for number in range(1, 5):
                    model.observe(state=STATE)
                    while sent() < number:
                        time.sleep(0.001)
                    time.sleep(0.1)  # a control loop that looks at the answer in its next step
                    pass_time(3.0)  # how long the answer lay unread, the kernel's clock tells
                    result = model.get_result(timeout_ms=60_000)
                    assert result is not None
                    ages.append(result.age_ms)
                model.observe(state=STATE)
                model.get_result(timeout_ms=60_000)
            return ages

        ages = await asyncio.to_thread(drive)
        use = use_of(server)
        assert 3000 <= use.age_ms <= ages[-1] + 0.1
        assert 0 < use.unread_ms <= use.age_ms
        assert (use.answered, use.in_time) == (5, 1)  # of the last one the robot has not said anything
        assert server.metrics.get_stats("action_age_ms").count == 4
        assert server.metrics.get_stats("action_unread_ms").max > 50
        assert server.metrics.get_stats("deadline_misses").count == 4


async def test_applied_says_when_the_robot_uses_an_action(serve: Serve) -> None:
    async with serve({"m": echo}) as server, AsyncConnection(server.address, client_id="arm") as connection:
        model = connection.model("m", latency_budget_ms=60_000.0)
        result = await model.infer(60_000, state=STATE)
        assert result is not None
        before = result.age_ms
        await asyncio.sleep(0.02)
        assert result.age_ms >= before + 15  # it goes on
        result.applied()
        applied = result.age_ms
        await asyncio.sleep(0.02)
        result.applied()
        assert result.age_ms == applied
        await model.infer(60_000, state=STATE)
        use = use_of(server)
        assert use.age_ms == pytest.approx(applied, abs=0.1)
        assert use.in_time == 2


async def test_a_chunk_is_applied_in_the_step_that_plays_it(serve: Serve) -> None:
    def policy(observation: dict[str, Any]) -> Any:
        return np.zeros((6, 2), np.float32)

    async with serve({"m": policy}) as server:

        def drive() -> None:
            with Connection(server.address, client_id="arm") as connection:
                runtime = ChunkRuntime(connection.model("m", control_rate_hz=50), 50)
                while runtime.stats.chunks < 3:
                    runtime.run(lambda: {"state": STATE}, lambda action: None, seconds=0.2)

        await asyncio.to_thread(drive)
        assert server.metrics.get_stats("action_age_ms").count >= 2
        assert 0 < use_of(server).age_ms < 60_000


@pytest.mark.parametrize("age_ms", [float("nan"), float("inf"), -1.0])
async def test_a_report_that_cannot_be_is_ignored(serve: Serve, age_ms: float) -> None:
    async with serve({"m": echo}) as server:
        with dealer(server.address, b"arm") as socket:
            for number in (7, 8, 9):
                message = observation("arm", request_id=number)
                message.applied.CopyFrom(Applied(request_id=number - 1, age_ms=age_ms))
                socket.send_multipart([b"", message.SerializeToString(), b""])
                await asyncio.to_thread(socket.recv_multipart)
        assert server.metrics.get_stats("action_age_ms") is None
        assert use_of(server).answered == 3


def test_the_report_is_an_addition_to_the_wire() -> None:
    whole = Observation(model_id="m", applied=Applied(request_id=1, age_ms=2.0, unread_ms=3.0))
    whole.ClearField("applied")
    assert whole == Observation(model_id="m")
