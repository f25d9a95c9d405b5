"""Robots that play chunks, while the model changes: what two versions say of one step is never averaged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.lerobot_robot import connected, observation
from tests.models.conftest import Serve, settings, until

from inferential import AsyncConnection, Server
from inferential.client import AsyncChunkRuntime
from inferential.config.gateways import LeRobotConfig
from inferential.gateway.lerobot import LeRobotGateway

CHUNKS = """
import numpy as np

class Chunks:
    def __init__(self, number, fails=""):
        self.number, self.fails = number, fails
    def infer(self, observation):
        import os
        if self.fails and os.path.exists(self.fails):
            raise RuntimeError("it fails")
        return {"actions": np.full((20, 6), self.number, np.float32)}
"""


@pytest.fixture(autouse=True)
def chunks(place: Path) -> None:
    (place / "chunks.py").write_text(CHUNKS)


def model(number: float, **more: Any) -> dict[str, Any]:
    args = {key: more.pop(key) for key in ("fails",) if key in more}
    return {"target": "chunks:Chunks", "args": {"number": number, **args}, **more}


def two(**more: Any) -> dict[str, Any]:
    return {"versions": {"a": model(1.0), "b": model(9.0)}, "active": "a", **more}


class Played:
    """The actions of a runtime, but for those with which it goes on from where it stood while it had none."""

    def __init__(self, runtime: AsyncChunkRuntime) -> None:
        self.actions: list[float] = []
        self._runtime = runtime
        self._starved = self._skipped = 0

    def take(self, action: Any) -> None:
        if self._runtime.stats.starved_steps != self._starved:
            self._starved, self._skipped = self._runtime.stats.starved_steps, 11  # steps of 0.2 s, and one
        elif self._skipped:
            self._skipped -= 1
        elif action is not None:
            self.actions.append(float(action[0]))


CHANGES = {
    "a model replaced": (model(1.0), model(9.0)),
    "another version active": (two(), two() | {"active": "b"}),
    "a version changed under its name": (two(), two() | {"versions": {"a": model(9.0)}}),
}


@pytest.mark.parametrize("merge", ["average", "ensemble"])
@pytest.mark.parametrize("change", list(CHANGES))
async def test_a_chunk_runtime_plays_whole_numbers_of_one_version_at_a_time(
    serve: Serve, merge: str, change: str
) -> None:
    before, after = CHANGES[change]
    server = await serve(m=before)
    async with AsyncConnection(server.address, "arm") as connection:
        runtime = AsyncChunkRuntime(connection.model("m", 500.0), 50.0, merge=merge)
        played = Played(runtime)
        playing = asyncio.create_task(runtime.run(lambda: {"state": np.ones(2, np.float32)}, played.take))
        await until(lambda: 1.0 in played.actions)
        server.reconfigure(settings(m=after))
        await until(lambda: 9.0 in played.actions[-1:])
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    assert set(played.actions) == {1.0, 9.0}


async def test_nor_is_what_a_fallback_says_averaged(serve: Serve, place: Path) -> None:
    breaking = model(1.0, fails="fails", fallback="n", breaker={"failures": 1, "pause_ms": 60_000})
    server = await serve(m=breaking, n=model(9.0))
    async with AsyncConnection(server.address, "arm") as connection:
        runtime = AsyncChunkRuntime(connection.model("m", 500.0), 50.0, merge="average")
        played = Played(runtime)
        playing = asyncio.create_task(runtime.run(lambda: {"state": np.ones(2, np.float32)}, played.take))
        await until(lambda: 1.0 in played.actions)
        (place / "fails").touch()
        await until(lambda: 9.0 in played.actions[-1:])
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    assert set(played.actions) == {1.0, 9.0}


class LeRobotQueue:
    """A robot's queue of actions, as lerobot's `RobotClient` keeps it: what comes twice for a step is averaged."""

    def __init__(self) -> None:
        self.steps: dict[int, float] = {}
        self.played: list[float] = []
        self.timestep = 0

    def take(self, actions: list[Any]) -> None:
        for one in actions:
            if one.timestep >= self.timestep:
                new = float(one.action[0])
                self.steps[one.timestep] = 0.3 * self.steps.get(one.timestep, new) + 0.7 * new

    def play(self) -> None:
        action = self.steps.pop(self.timestep, None)
        if action is not None:
            self.played.append(round(action, 4))
            self.timestep += 1


@pytest.mark.parametrize("change", list(CHANGES))
async def test_a_robot_of_lerobot_has_nothing_to_average_of_two_versions(
    serve: Serve, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.models.routes.PATIENCE_S", 0.2)  # it never says that an episode ends
    before, after = CHANGES[change]
    server: Server = await serve(m=before)
    queue = LeRobotQueue()
    async with LeRobotGateway(server, LeRobotConfig(model="m", port=0)) as gateway, connected(gateway.address) as robot:
        await robot.begin()
        changed = False
        async with asyncio.timeout(60):
            while queue.played[-30:] != [9.0] * 30:
                await robot.send(observation(float(queue.timestep), queue.timestep, must_go=not queue.steps))
                queue.take(await robot.actions())
                for _ in range(5):
                    queue.play()
                await asyncio.sleep(0.005)  # a robot plays for as long at least
                if not changed and 1.0 in queue.played:
                    server.reconfigure(settings(m=after))
                    changed = True
    assert set(queue.played) == {1.0, 9.0}
