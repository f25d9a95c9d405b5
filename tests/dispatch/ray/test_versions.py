"""Versions of a model that are deployments of a real Ray Serve: shares, a bad one taken back, the shadow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from tests.dispatch.ray.deployments import deployment
from tests.models.conftest import ask, until

from inferential import AsyncConnection, Server
from inferential.cli.targets import model_later
from inferential.config import InferentialConfig
from inferential.dispatch.dispatcher import RayDispatcher
from inferential.replica import direct

serve = pytest.importorskip("ray.serve")
pytestmark = [pytest.mark.slow]
ROBOTS = 8


@direct
class Scaled:
    """The state times a factor, and how many steps of a robot's episode it has seen."""

    def __init__(self, scale: float, fails: bool = False) -> None:
        self._scale, self._fails = scale, fails

    def reset(self, session: Any) -> None:
        session.state = 0

    def infer(self, observation: dict[str, Any], session: Any) -> Any:
        session.state += 1
        if self._fails:
            raise RuntimeError("no weights")
        return {"actions": observation["state"] * self._scale, "steps": session.state}


@direct
class Plain(Scaled):
    """The same without memory."""

    def infer(self, observation: dict[str, Any]) -> Any:  # type: ignore[override]
        if self._fails:
            raise RuntimeError("no weights")
        return {"actions": observation["state"] * self._scale}


def settings(**model: Any) -> InferentialConfig:
    versions = {name: {"target": f"ray:scaled-{name}"} for name in ("a", "b", "bad")}
    return InferentialConfig.model_validate(
        {"models": {"known": {"m": {"versions": versions, "active": "a", **model}}}}
    )


@pytest.fixture(scope="module")
def scaled(cluster: Any) -> Any:
    """Three deployments, each the application of a version, and one with memory."""
    apps = {
        "scaled-a": deployment(Plain).bind(1.0),
        "scaled-b": deployment(Plain).bind(2.0),
        "scaled-bad": deployment(Plain).bind(3.0, fails=True),
        "remembers": deployment(Scaled).bind(1.0),
    }
    for name, app in apps.items():
        serve.run(app, name=name, route_prefix=None)
    yield
    for name in apps:
        serve.delete(name)


@pytest.fixture
async def managed(scaled: Any) -> AsyncIterator[Callable[[InferentialConfig], Any]]:
    async with AsyncExitStack() as stack:

        async def start(config: InferentialConfig) -> Server:
            server = Server("tcp://127.0.0.1:*", config=config, dispatcher=RayDispatcher(config.ray, {}))
            server.manage_models(model_later)
            return await stack.enter_async_context(server)

        yield start


def roles(server: Server) -> dict[str, str]:
    return {one.version: one.state for one in server.status().models[0].versions if one.pool}


async def versions(server: Server) -> list[str]:
    connections = [AsyncConnection(server.address, f"arm-{number}") for number in range(ROBOTS)]
    for _ in range(2):  # the first time they become known
        results = await asyncio.gather(
            *(one.model("m", 20_000.0).infer(60_000, state=np.ones(2)) for one in connections)
        )
    for connection in connections:
        connection.close()
    return sorted(result.model_version for result in results if result is not None)


async def test_a_share_tries_a_deployment_and_becomes_all_under_load(managed: Any) -> None:
    server = await managed(settings(rollout={"b": {"share": 0.25}}))
    await until(lambda: roles(server) == {"a": "ready", "b": "ready"}, 240.0)
    async with asyncio.timeout(240):  # until its replica takes calls by its endpoint too, the active version answers
        while await versions(server) != ["a"] * 6 + ["b"] * 2:  # noqa: ASYNC110 (of other processes)
            await asyncio.sleep(0.1)
    done, seen = asyncio.Event(), []

    async def drive(client_id: str) -> None:
        async with AsyncConnection(server.address, client_id) as connection:
            model = connection.model("m", 20_000.0, queue="all")
            while not done.is_set():
                result = await model.infer(60_000, state=np.ones(2))
                assert result is not None
                assert result["actions"][0] == {"a": 1.0, "b": 2.0}[result.model_version]
                seen.append(result.model_version)

    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(drive(f"robot-{number}"))
        await until(lambda: len(seen) > 20)
        server.reconfigure(settings(active="b"))
        await until(lambda: seen[-10:] == ["b"] * 10 and set(roles(server)) == {"b"}, 240.0)
        done.set()


async def test_a_bad_deployment_is_taken_back_and_no_request_is_lost(managed: Any) -> None:
    server = await managed(settings(rollout={"bad": {"clients": ["arm"]}}, abort={"min_requests": 20}))
    await until(lambda: roles(server) == {"a": "ready", "bad": "ready"}, 240.0)
    answers = [await ask(server) for _ in range(10)]
    assert {answer.model_version for answer in answers} == {"a"}
    await until(lambda: any(one.why.startswith("taken back") for one in server.status().models[0].versions))
    assert set(roles(server)) == {"a"}


async def test_the_shadow_is_compared_and_state_is_kept(managed: Any) -> None:
    config = settings(shadow="b")
    config.models.known["r"] = config.models.known["m"].model_copy(
        update={"versions": {}, "active": None, "shadow": None, "target": "ray:remembers"}
    )
    server = await managed(config)
    await until(lambda: roles(server) == {"a": "ready", "b": "ready"}, 240.0)
    await until(lambda: all(model.state == "ready" for model in server.status().models), 240.0)
    assert (await ask(server)).model_version == "a"
    await until(lambda: any(one.compared for one in server.status().models[0].versions))
    (shadow,) = [one for one in server.status().models[0].versions if one.role == "shadow"]
    assert shadow.difference_mean == [1.0, 1.0]
    async with AsyncConnection(server.address, "arm") as connection:
        model = connection.model("r", 20_000.0)
        results = [await model.infer(60_000, state=np.ones(2)) for _ in range(3)]
        await model.reset()
        results.append(await model.infer(60_000, state=np.ones(2)))
    assert [int(one["steps"]) for one in results if one is not None] == [1, 2, 3, 1]
