"""A server that goes away and comes back: nothing blocks and nothing is stuck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, RequestRejected, RequestSuperseded
from inferential.client import aio
from inferential.client.session import MAX_OPEN, MAX_UNSENT

WAIT_MS = 60_000
Connect = Callable[..., Any]


class OneHourLater:
    """What `time` is to a robot whose event loop stood still."""

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() + 3600.0


def n(value: int) -> np.ndarray[Any, Any]:
    return np.array(value)


async def answered(model: Any, peer: Any, result_for: Any, number: int) -> None:
    """One observation goes out and its answer comes back, sooner or later."""
    async with asyncio.timeout(60):
        while True:
            answering = asyncio.create_task(model.infer(300, n=n(number)))
            with peer.serving():
                result = await answering
            if result is not None:
                assert result["actions"] == number
                return


@pytest.mark.parametrize("form", ["array", "image"])
async def test_while_the_server_is_away_the_newest_observation_waits_for_it(
    form: str, connect: Connect, peer: Any, result_for: Any
) -> None:
    peer.stop()
    connection = connect()
    model = connection.model("m", encode={"image": "png"} if form == "image" else None)
    extra = {"image": np.zeros((4, 4, 3), np.uint8)} if form == "image" else {}
    for number in range(1000):
        await model.observe(n=n(number), **extra)
    assert await model.get_result(0) is None
    peer.start()
    waiting = asyncio.create_task(model.get_result(WAIT_MS))
    seen = await peer.next()
    assert seen.values["n"] == 999
    peer.send(seen, result_for(seen))
    assert (await waiting)["actions"] == 999
    assert peer.is_quiet()
    stats = connection.stats
    assert (stats.observed, stats.replaced_unsent, stats.superseded) == (1000, 999, 999)


async def test_of_several_handles_each_ones_newest_observation_waits(connect: Connect, peer: Any) -> None:
    peer.stop()
    connection = connect()
    handles = [connection.model(f"m{number}") for number in range(4)]
    for number in range(40):
        await handles[number % 4].observe(n=n(number))
    peer.start()
    waiting = asyncio.create_task(handles[0].get_result(WAIT_MS))
    assert [int((await peer.next()).values["n"]) for _ in range(4)] == [36, 37, 38, 39]
    connection.close()
    with pytest.raises(ConnectionError):
        await waiting


async def test_of_an_all_handle_the_newest_observations_wait_in_order_and_the_rest_are_refused(
    connect: Connect, peer: Any
) -> None:
    peer.stop()
    connection = connect()
    model = connection.model("m", queue="all")
    ids = [await model.observe(n=n(number)) for number in range(MAX_UNSENT + 5)]
    for request_id in ids[:5]:
        with pytest.raises(RequestRejected, match="cannot be reached") as raised:
            await model.get_result(0)
        assert raised.value.request_id == request_id
    peer.start()
    with peer.serving():
        for number in range(5, MAX_UNSENT + 5):
            result = await model.get_result(WAIT_MS)
            assert (int(result["actions"]), result.request_id) == (number, ids[number])
    assert connection.stats.dropped_unsent == 5


async def test_infer_gives_up_in_time_while_the_server_is_away_and_is_not_sent_later(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    peer.stop()
    connection = connect()
    model = connection.model("m")
    assert await model.infer(20, n=n(1)) is None
    peer.start()
    waiting = asyncio.create_task(model.infer(WAIT_MS, n=n(2)))
    seen = await peer.next()
    assert seen.values["n"] == 2
    peer.send(seen, result_for(seen))
    assert (await waiting)["actions"] == 2
    assert connection.stats.unmatched == 0


async def test_infer_raises_when_a_newer_observation_replaced_it_unsent(connect: Connect, peer: Any) -> None:
    peer.stop()
    connection = connect()
    model = connection.model("m")
    waiting = asyncio.create_task(model.infer(WAIT_MS, n=n(1)))
    async with asyncio.timeout(60):
        while connection.stats.observed == 0:  # noqa: ASYNC110 (another thread counts)
            await asyncio.sleep(0.001)
    await model.observe(n=n(2))
    with pytest.raises(RequestSuperseded, match="before this one could be sent"):
        await waiting


async def test_a_connection_recovers_from_a_restart_of_the_server_by_itself(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    connection = connect()
    model = connection.model("m")
    for life in range(3):
        await answered(model, peer, result_for, life)
        await model.observe(n=n(100))  # may be lost with the server
        peer.stop()
        for _ in range(3):
            await model.observe(n=n(100))
        peer.start()
    await answered(model, peer, result_for, 7)


@pytest.mark.usefixtures("patient")
async def test_requests_that_died_with_the_server_are_no_burden(connect: Connect, peer: Any, result_for: Any) -> None:
    connection = connect()
    model = connection.model("m", queue="all")
    await model.observe(n=n(1))
    lost = await peer.next()
    peer.stop()
    peer.start()
    with pytest.raises(RequestRejected, match="lost") as ended:
        await model.get_result(WAIT_MS)
    assert ended.value.cause == "not_arrived"
    await answered(model, peer, result_for, 2)
    assert await model.get_result(0) is None
    await model.observe(n=n(3))
    here = await peer.next()
    peer.send(here, result_for(lost))  # it may come yet
    peer.send(here, result_for(here))
    result = await model.get_result(WAIT_MS)
    assert result is not None
    assert result["actions"] == 3
    assert connection.stats.unmatched == 1


async def test_observations_without_an_answer_take_bounded_memory(connect: Connect, peer: Any) -> None:
    connection = connect()
    model = connection.model("m", queue="all")
    for _ in range(3 * MAX_OPEN):  # the peer reads nothing
        await model.observe()
    assert connection.sizes().open_requests <= MAX_OPEN
    assert connection.sizes().unsent <= MAX_UNSENT


async def test_a_server_that_does_not_read_never_blocks_observe(connect: Connect, peer: Any) -> None:
    model = connect().model("m")
    frame = np.zeros(1_000_000, np.uint8)
    for number in range(60):  # far more than the buffers of both ends take
        frame[0] = number
        await model.observe(n=frame)
    numbers = []
    waiting = asyncio.create_task(model.get_result(WAIT_MS))
    while not numbers or numbers[-1] != 59:
        numbers.append(int((await peer.next()).values["n"][0]))
    assert numbers == sorted(numbers)
    waiting.cancel()


async def test_an_observation_after_the_event_loop_stood_still_is_not_lost_to_a_server_that_restarted(
    peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncConnection(peer.address, "robot", reconnect_ivl_ms=5) as connection:
        model = connection.model("m", queue="all")
        await model.observe(n=n(1))
        await peer.next()
        peer.stop()
        peer.start()  # all that while the event loop has not run
        monkeypatch.setattr(aio, "time", OneHourLater)
        await model.observe(n=n(2))
        assert (await peer.next()).values["n"] == 2
