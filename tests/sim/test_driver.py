"""One robot against a real server in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Self

import numpy as np
import pytest

from inferential import LocalDispatcher, Server
from inferential.sim.driver import Driver
from inferential.sim.link import InferentialLink
from inferential.sim.policies import BalancePolicy
from inferential.sim.robots import CartPole


async def driven(model: Any, seconds: float) -> Driver:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"balance": model})) as server:
        robot = CartPole(seed=0)
        driver = Driver(robot, "cartpole-00", InferentialLink(robot, "cartpole-00", server.address))
        await driver.run(time.monotonic(), seconds)
        return driver


async def test_ages_are_reported_once() -> None:
    driver = await driven(BalancePolicy(), 0.5)
    report = driver.report()
    assert report.periods == 24
    assert 0 < len(report.ages_ms) <= 24
    assert report.fresh > 0
    assert driver.report().ages_ms == []
    assert report.ages_ms


async def test_errors_of_the_server_are_counted_by_type() -> None:
    def broken(observation: Any) -> Any:
        raise ValueError("no")

    report = (await driven(broken, 0.3)).report()
    assert set(report.refused) <= {"ModelFailed", "ModelFailing"}  # after ten in a row it is not asked
    assert report.refused["ModelFailed"] >= 1
    assert report.fresh == 0
    assert report.on_time == 0


async def test_an_answer_without_actions_ends_the_drive() -> None:
    with pytest.raises(KeyError, match="actions"):
        await driven(lambda observation: {"forces": np.zeros(1)}, 10.0)


class MissesCancellation:
    """A link whose `receive` goes on as if nothing had come where it is cancelled."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def observe(self, observation: Any) -> None:
        pass

    async def receive(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@pytest.mark.timeout(120)
async def test_a_drive_ends_though_its_link_misses_the_cancellation() -> None:
    driver = Driver(CartPole(seed=0), "cartpole-00", MissesCancellation())
    await driver.run(time.monotonic(), 0.1)
    assert driver.report().periods == 4
