"""Models on a real Ray Serve that keep state of their robots: order, lost state, versions, and robots that leave."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.ray.deployments import deployment
from tests.models.conftest import until

from inferential import AsyncConnection, ModelFailed, Server
from inferential.cli.targets import model_later
from inferential.config import InferentialConfig
from inferential.dispatch.dispatcher import RayDispatcher
from inferential.replica import direct

serve = pytest.importorskip("ray.serve")
pytestmark = [pytest.mark.slow]


@direct
class Remembers:
    """How many steps of a robot's episode it has seen; robots that are gone are noted in a file."""

    max_batch_size = 4

    def __init__(self, gone: str) -> None:
        self._gone = gone

    def reset(self, session: Any) -> None:
        session.state = 0

    def close(self, session: Any) -> None:
        with open(self._gone, "a") as file:
            file.write(f"{session.client_id} {session.state}\n")

    def infer_batch(self, observations: list[dict[str, Any]], sessions: list[Any]) -> list[Any]:
        for session in sessions:
            session.state += 1
        rows = zip(observations, sessions, strict=True)
        return [{"number": one["number"], "steps": session.state, "pid": os.getpid()} for one, session in rows]


def settings(**model: Any) -> InferentialConfig:
    return InferentialConfig.model_validate(
        {
            "models": {"known": {"m": {"every_observation": True, **model}}},
            "response_tracking": {"disconnect_timeout_s": 2.0},
            "scheduling": {"request_ttl_ms": 30_000},  # a replica that is begun anew takes its time on a busy machine
        }
    )


@pytest.fixture(scope="module")
def gone(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two deployments that remember, the first with two replicas; the file of robots that they know to be gone."""
    path = tmp_path_factory.mktemp("ray") / "gone"
    for name, replicas in (("remembers-a", 2), ("remembers-b", 1)):
        serve.run(deployment(Remembers, replicas).bind(str(path)), name=name, route_prefix=None)
    yield path
    for name in ("remembers-a", "remembers-b"):
        serve.delete(name)


@pytest.fixture
async def managed(gone: Path) -> AsyncIterator[Callable[[InferentialConfig], Any]]:
    async with AsyncExitStack() as stack:

        async def start(config: InferentialConfig) -> Server:
            server = Server("tcp://127.0.0.1:*", config=config, dispatcher=RayDispatcher(config.ray, {}))
            server.manage_models(model_later)
            await stack.enter_async_context(server)

            def loaded() -> list[Any]:
                return [one for one in server.status().models[0].versions if one.pool]

            await until(lambda: all(one.state == "ready" for one in loaded()), 240.0)
            await until(lambda: len(server.dispatcher.replicas(loaded()[0].pool)) == 2, 240.0)
            return server

        yield start


async def outcomes_of(model: Any, count: int, first: int = 0) -> list[Any]:
    """Sends so many observations at once; returns what came back, in the order in which it came."""
    for number in range(first, first + count):
        await model.observe(number=np.array(number))
    found = []
    for _ in range(count):
        try:
            found.append(await model.get_result(60_000))
        except ModelFailed as error:
            found.append(error)
    return found


async def test_robots_stay_on_their_replicas_in_order_and_their_sessions_end_when_they_leave(
    managed: Any, gone: Path
) -> None:
    server = await managed(settings(target="ray:remembers-a"))

    async def drive(client_id: str) -> set[int]:
        async with AsyncConnection(server.address, client_id) as connection:
            model = connection.model("m", 20_000.0, queue="all")
            results = await outcomes_of(model, 10)
            assert [(int(one["number"]), int(one["steps"])) for one in results] == [(n, n + 1) for n in range(10)]
            await model.reset()
            results += await outcomes_of(model, 1)
            assert (results[-1]["steps"], results[-1].session) == (1, "")
            return {int(one["pid"]) for one in results}

    robots = [f"arm-{number}" for number in range(4)]
    found = await asyncio.gather(*map(drive, robots))
    assert [len(pids) for pids in found] == [1] * 4
    assert len(set.union(*found)) == 2
    await until(lambda: gone.exists() and sorted(gone.read_text().split("\n")) == ["", *(f"{one} 1" for one in robots)])


async def test_a_robot_whose_replica_has_died_learns_of_it_and_goes_on_in_order_with_another(managed: Any) -> None:
    server = await managed(settings(target="ray:remembers-a"))
    async with AsyncConnection(server.address, "arm") as connection:
        model = connection.model("m", 20_000.0, queue="all")
        (before,) = await outcomes_of(model, 1)
        sent = asyncio.create_task(outcomes_of(model, 60, first=1))
        await asyncio.sleep(0.01)
        os.kill(int(before["pid"]), signal.SIGKILL)
        outcomes = await sent
    failed = [one for one in outcomes if isinstance(one, ModelFailed)]
    results = [one for one in outcomes if not isinstance(one, ModelFailed)]
    assert all("is not run again" in str(one) for one in failed)
    assert len(failed) <= 1
    numbers = [int(one["number"]) for one in results]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + len(failed) == 60
    restarts = [one for one in results if one.session == "restarted"]
    assert [int(one["steps"]) for one in restarts] == [1]
    assert {int(one["pid"]) for one in results[results.index(restarts[0]) :]} != {int(before["pid"])}


async def test_a_robot_changes_its_version_at_the_end_of_its_episode(managed: Any) -> None:
    versions = {name: {"target": f"ray:remembers-{name}"} for name in "ab"}
    server = await managed(settings(versions=versions, active="a", rollout={"b": {"clients": ["other"]}}))
    async with AsyncConnection(server.address, "arm") as connection:
        model = connection.model("m", 20_000.0, queue="all")
        seen = await outcomes_of(model, 1)
        server.reconfigure(settings(versions=versions, active="a", rollout={"b": {"share": 1.0}}))
        seen += await outcomes_of(model, 2)
        await model.reset()
        seen += await outcomes_of(model, 2)
    shown = [(one.model_version, int(one["steps"]), one.session) for one in seen]
    assert shown == [("a", 1, ""), ("a", 2, ""), ("a", 3, ""), ("b", 1, ""), ("b", 2, "")]
