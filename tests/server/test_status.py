"""What the server shows of itself: connected robots, sizes of its tables, counters."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Gate, Serve, echo

from inferential import InferenceRequest, LocalDispatcher, Server
from inferential.scheduler.running import Batch
from inferential.server.history import MAX_FINISHED_CALLS, History

STATE = np.zeros(3, np.float32)


async def test_connected_robots_are_those_that_have_observed(serve: Serve) -> None:
    async with serve({"m": echo}) as server, server.connect("arm") as arm, server.connect("leg") as leg:
        assert server.connected_robots == []
        await leg.model("m").infer(60_000, state=STATE)
        await arm.model("m").infer(60_000, state=STATE)
        assert server.connected_robots == ["leg", "arm"]


async def test_a_refused_observation_connects_no_client(serve: Serve) -> None:
    config = {"clients": {"accept_unknown": False}}
    async with serve({"m": echo}, config) as server, server.connect("arm") as arm:
        await arm.model("m").observe(state=STATE)
        assert server.connected_robots == []


async def test_sizes_count_waiting_requests_and_connected_clients(serve: Serve, gate: Gate) -> None:
    async with serve({"m": gate}) as server, server.connect("arm") as arm:
        model = arm.model("m", queue="all")
        for _ in range(3):
            await model.observe(state=STATE)
        await gate.wait_entered()
        sizes = server.status().sizes
        expected = {"queue_requests": 2, "queue_clients": 1, "clients": 1, "inprocess_clients": 1, "call_tasks": 1}
        assert {name: sizes[name] for name in expected} == expected
        assert sizes["connections"] == 0
        gate.let(3)
        for _ in range(3):
            await model.get_result(60_000)
        assert server.status().sizes["queue_requests"] == 0


async def test_the_status_is_json(serve: Serve) -> None:
    async with serve({"m": echo}) as server, server.connect("arm") as arm:
        await arm.model("m").infer(60_000, state=STATE)
        shown: dict[str, Any] = json.loads(json.dumps(server.status().as_dict()))
    assert shown["sizes"]["clients"] == 1
    assert shown["counters"]["calls_as_tasks"] == 1
    assert set(shown["sizes"].values()) >= {0, 1}


def test_the_history_of_calls_is_bounded() -> None:
    history = History(0.0)
    request = InferenceRequest("arm", "m", b"arm", b"", b"", 0.0, 0.0, None, 0.0, 50.0, 1)
    for number in range(MAX_FINISHED_CALLS + 10):
        batch = Batch("m", [request], "", float(number))
        history.began(batch)
        history.ended(batch, number + 0.5, ok=True)
    calls = history.batches()
    assert len(history) == len(calls) == MAX_FINISHED_CALLS
    assert (calls[-1].number, calls[-1].clients) == (MAX_FINISHED_CALLS + 10, ("arm",))


def test_of_many_new_calls_the_history_gives_some_at_even_distances_and_the_last() -> None:
    history = History(0.0)
    request = InferenceRequest("arm", "m", b"arm", b"", b"", 0.0, 0.0, None, 0.0, 50.0, 1)
    for number in range(100):
        batch = Batch("m", [request], "", float(number))
        history.began(batch)
        history.ended(batch, number + 0.5, ok=True)
    assert [call.number for call in history.batches(0, 4)] == [25, 50, 75, 100]
    assert [call.number for call in history.batches(97, 4)] == [98, 99, 100]


def test_the_history_gives_a_long_call_that_ends_after_newer_ones() -> None:
    history = History(0.0)
    request = InferenceRequest("arm", "m", b"arm", b"", b"", 0.0, 0.0, None, 0.0, 50.0, 1)
    long, short = (Batch("m", [request], "", started_at) for started_at in (0.0, 1.0))
    for batch in (long, short):
        history.began(batch)
    history.ended(short, 2.0, ok=True)
    seen = history.ended_count
    history.ended(long, 3.0, ok=True)
    assert [call.number for call in history.batches(seen)] == [1]


def test_a_server_that_does_not_run_has_no_connected_robots() -> None:
    assert Server(dispatcher=LocalDispatcher({})).connected_robots == []


@pytest.mark.parametrize("renews", [True, False])
async def test_a_robot_that_is_asked_for_newer_observations_is_not_parked_while_it_waits(
    serve: Serve, connect: Any, gate: Gate, renews: bool
) -> None:
    async with serve({"m": gate}) as server:
        model = connect(server, "arm").model("m")
        parked = 0
        for number in range(8):
            await model.observe(state=STATE, renews=renews)
            if number == 0:
                await gate.wait_entered()
            await asyncio.sleep(0.01)
            parked = max(parked, server.status().sizes["connections_parked"])
        gate.let(10)
        assert parked == (not renews)


async def test_a_robot_that_floods_is_parked_though_it_says_that_it_renews(
    serve: Serve, connect: Any, gate: Gate
) -> None:
    async with serve({"m": gate}) as server:
        model = connect(server, "arm").model("m", queue="all")
        parked = 0
        for number in range(60):
            await model.observe(state=STATE, renews=True)
            if number == 0:
                await gate.wait_entered()
            await asyncio.sleep(0.001)
            parked = max(parked, server.status().sizes["connections_parked"])
        gate.let(100)
        assert parked == 1
