"""Load on a real server, over real sockets: what is counted, and that nothing is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from inferential import LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.sim import load as load_module
from inferential.sim.load import Driver, Load, Tally

Serving = Callable[..., AbstractAsyncContextManager[Server]]
ROBOTS, RATE_HZ, SECONDS = 4, 25.0, 0.5


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "WARM_UP_S", 0.2)


@pytest.fixture
def short_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """for models that answer no client before time counts."""
    monkeypatch.setattr(load_module, "CONNECT_S", 0.1)


@pytest.fixture
def serving() -> Serving:
    """`async with serving(model, scheduling={...}) as server:`"""

    @asynccontextmanager
    async def start(model: Any, **config: Any) -> AsyncIterator[Server]:
        given = InferentialConfig(server={"drain_timeout_s": 0.0}, **config)
        async with Server("tcp://127.0.0.1:0", config=given, dispatcher=LocalDispatcher({"arm": model})) as server:
            yield server

    return start


def load_on(server: Server, **given: Any) -> Load:
    asked = {"robots": ROBOTS, "rate_hz": RATE_HZ, "seconds": SECONDS, "budget_ms": 50.0, **given}
    return Load(server.address, "arm", {"state": np.zeros(3, np.float32)}, **asked)


async def driven(server: Server, **given: Any) -> Tally:
    driver = Driver(load_on(server, **given))
    await driver.run()
    return driver.tally


def ends(tally: Tally) -> int:
    return tally.answered + tally.superseded + tally.refused.total() + tally.unanswered


def echo(observation: dict[str, Any]) -> Any:
    return observation["state"]


async def test_each_robot_observes_at_its_rate_and_every_answer_is_measured(serving: Serving) -> None:
    async with serving(echo) as server:
        tally = await driven(server, queue="all")  # a stall of the loop supersedes otherwise
        assert len(server.status().clients) == ROBOTS
    assert tally.sent == pytest.approx(ROBOTS * RATE_HZ * SECONDS, abs=ROBOTS)
    assert tally.answered == tally.sent
    assert len(tally.round_trip_ms) == len(tally.queue_ms) == len(tally.inference_ms) == tally.answered
    assert sum(tally.batch_sizes.values()) == tally.answered  # short calls share their hand-over
    assert len(tally.slip_ms) == tally.sent
    assert all(
        whole >= queued + inside > 0
        for whole, queued, inside in zip(tally.round_trip_ms, tally.queue_ms, tally.inference_ms, strict=True)
    )


async def test_robots_of_a_closed_loop_ask_one_after_another(serving: Serving) -> None:
    running = most = 0

    async def model(observation: dict[str, Any]) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return observation["state"]

    async with serving(model, models={"default_max_inflight": 8}) as server:
        tally = await driven(server, rate_hz=None, robots=3)
    assert most == 3
    assert tally.answered == tally.sent > 3
    assert set(tally.refused) == set()


async def test_superseded_observations_are_counted_apart(serving: Serving) -> None:
    async def slow(observation: dict[str, Any]) -> Any:
        await asyncio.sleep(0.05)
        return observation["state"]

    async with serving(slow) as server:
        tally = await driven(server)
    assert tally.superseded > tally.answered > 0
    assert tally.sent == ends(tally)
    assert tally.refused == {}


async def test_refusals_are_counted_by_their_error(serving: Serving) -> None:
    def fails(observation: dict[str, Any]) -> Any:
        raise ValueError("no cup")

    async with serving(fails) as server:
        tally = await driven(server, queue="all")  # a stall of the loop supersedes otherwise
    assert tally.refused.keys() <= {"ModelFailed", "ModelFailing"}  # after ten in a row it is not asked
    assert sum(tally.refused.values()) == tally.sent
    assert tally.answered == 0


async def test_what_a_full_queue_refuses_is_counted(serving: Serving) -> None:
    async def slow(observation: dict[str, Any]) -> Any:
        await asyncio.sleep(0.05)
        return observation["state"]

    scheduling = {"max_queue_size": 1, "overflow_policy": "reject_newest"}
    async with serving(slow, scheduling=scheduling) as server:
        tally = await driven(server, queue="all")
    assert tally.refused["RequestRejected"] > 0
    assert tally.answered > 0
    assert tally.sent == ends(tally)


@pytest.mark.usefixtures("short_connect")
async def test_what_is_never_answered_is_counted_when_the_time_is_over(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "GRACE_S", 0.1)

    async def silent(observation: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with serving(silent) as server:
        tally = await driven(server)
    assert tally.answered == 0
    assert tally.unanswered >= ROBOTS - 1  # one of the warm-up's is at the model
    assert tally.sent == ends(tally)


@pytest.mark.usefixtures("short_connect")
async def test_what_waits_when_it_is_cancelled_is_unanswered(serving: Serving) -> None:
    async def silent(observation: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with serving(silent) as server:
        driver = Driver(load_on(server, seconds=600.0))
        running = asyncio.create_task(driver.run())
        while driver.tally.sent < 3 * ROBOTS:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert 0 < driver.counted_s < 600
    assert driver.tally.unanswered > 0
    assert driver.tally.sent == ends(driver.tally)


async def test_answers_are_late_by_the_budget(serving: Serving) -> None:
    async with serving(echo) as server:
        assert (await driven(server, budget_ms=1e5)).in_time > 0
        assert (await driven(server, budget_ms=1e-3)).in_time == 0


@pytest.mark.usefixtures("short_connect")
async def test_only_what_came_while_time_was_counted_makes_the_rate(serving: Serving) -> None:
    gate = asyncio.Event()

    async def closed_until_the_end(observation: dict[str, Any]) -> Any:
        await gate.wait()
        return observation["state"]

    async with serving(closed_until_the_end, models={"default_max_inflight": 8}) as server:
        driver = Driver(load_on(server))
        running = asyncio.create_task(driver.run())
        while driver.counted_s < SECONDS:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)
        gate.set()
        await running
    assert driver.tally.answered > 0
    assert driver.tally.arrived == 0
