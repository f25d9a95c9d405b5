"""Chunks of two versions, which no robot may average: robots of the SDK, LeRobot and openpi while versions change.

Every action is a power of ten, another one after each change: what a robot plays of two versions is none of them.
Left out are the actions with which a `ChunkRuntime` goes on from where it stood after it had none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from tests.gateway.lerobot_robot import connected, observation

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.cli.targets import model_later
from inferential.client import AsyncChunkRuntime
from inferential.config import InferentialConfig
from inferential.config.gateways import LeRobotConfig, OpenPiConfig
from inferential.dispatch.openpi import OpenPiModel
from inferential.gateway.lerobot import LeRobotGateway
from inferential.gateway.openpi import OpenPiGateway
from inferential.models.report import VersionStatus

_MERGES = ("replace", "average", "ensemble")
_ROBOTS_EACH = 4
_CHANGE_AFTER_S = 0.5  # while all that is loaded is ready
_RESUMES_STEPS = 11
_STEP_S = 0.02
_OWN_CHUNK = 10  # actions that a robot of openpi plays before it asks again
_MODEL = "chunks"


async def run(seconds: float) -> dict[str, Any]:
    """Returns, by kind of robot: actions played, how often they came from another version, and how many were mixed."""
    played: dict[str, list[list[float]]] = {}
    changes = 0
    async with _served() as server:
        until = time.monotonic() + seconds
        async with (
            LeRobotGateway(server, LeRobotConfig(model=_MODEL, port=0)) as lerobot,
            OpenPiGateway(server, OpenPiConfig(model=_MODEL, port=0)) as openpi,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(_ROBOTS_EACH):
                for merge in _MERGES:
                    own = _of(played, f"ChunkRuntime, {merge}")
                    tasks.create_task(_runtime(server.address, f"{merge}-{number}", merge, until, own))
                tasks.create_task(_lerobot(lerobot.address, until, _of(played, "LeRobot, weighted average")))
                tasks.create_task(_openpi(openpi.address, until, _of(played, "openpi")))
            while time.monotonic() < until - _CHANGE_AFTER_S:
                await asyncio.sleep(_CHANGE_AFTER_S)
                if all(one.state == "ready" and one.role != "coming" for one in _loaded(server)):
                    changes += 1
                    server.reconfigure(_settings(changes))
    return {"changes": changes, "robots": {kind: _summary(rows) for kind, rows in played.items()}}


def _loaded(server: Server) -> list[VersionStatus]:
    return [one for one in server.status().models[0].versions if one.pool]


def _of(played: dict[str, list[list[float]]], kind: str) -> list[float]:
    own: list[float] = []
    played.setdefault(kind, []).append(own)
    return own


def _summary(rows: list[list[float]]) -> dict[str, int]:
    return {
        "actions": sum(map(len, rows)),
        "version_changes": sum(one != before for row in rows for before, one in pairwise(row)),
        "mixed": sum(10 ** round(math.log10(one)) != one for row in rows for one in row),
    }


@asynccontextmanager
async def _served() -> AsyncIterator[Server]:
    server = Server("tcp://127.0.0.1:0", config=_settings(0), dispatcher=LocalDispatcher({}))
    server.manage_models(model_later)
    async with server:
        yield server


def _settings(change: int) -> InferentialConfig:
    """Returns what is served after so many changes: by turns another version, half of the robots, and other code."""
    active, other = "ab"[change // 3 % 2], "ba"[change // 3 % 2]
    numbers = {active: change - change % 3 % 2, other: change + 1}
    versions = {
        name: {"target": "bench.rollout_models:Chunks", "args": {"number": 10.0**number}}
        for name, number in numbers.items()
    }
    rollout = {other: {"share": 0.5}} if change % 3 == 1 else {}
    model = {"versions": versions, "active": active, "rollout": rollout}
    return InferentialConfig.model_validate({"models": {"known": {_MODEL: model}}, "server": {"ready_wait_s": 60.0}})


async def _runtime(address: str, client_id: str, merge: str, until: float, played: list[float]) -> None:
    async with AsyncConnection(address, client_id) as connection:
        runtime = AsyncChunkRuntime(connection.model(_MODEL, 500.0), 1 / _STEP_S, merge=merge)

        starved = resumes = 0

        def act(action: Any) -> None:
            nonlocal starved, resumes
            if runtime.stats.starved_steps != starved:
                starved, resumes = runtime.stats.starved_steps, _RESUMES_STEPS
            elif resumes:
                resumes -= 1
            elif action is not None:
                played.append(round(float(action[0]), 4))

        await runtime.run(lambda: {"state": np.ones(6, np.float32)}, act, seconds=until - time.monotonic())


async def _lerobot(address: str, until: float, played: list[float]) -> None:
    """Plays as lerobot's `RobotClient` does: of two actions for one step, the older one counts three tenths."""
    steps: dict[int, float] = {}
    timestep = 0
    async with connected(address) as robot:
        await robot.begin()
        while time.monotonic() < until:
            if len(steps) <= _OWN_CHUNK:  # half of a chunk
                await robot.send(observation(float(timestep), timestep, must_go=not steps))
                for one in await robot.actions():
                    if one.timestep >= timestep:
                        new = float(one.action[0])
                        steps[one.timestep] = 0.3 * steps.get(one.timestep, new) + 0.7 * new
            action = steps.pop(timestep, None)
            if action is not None:
                played.append(round(action, 4))
                timestep += 1
            await asyncio.sleep(_STEP_S)


async def _openpi(address: str, until: float, played: list[float]) -> None:
    """Plays a whole chunk before it asks for another, as openpi's `ActionChunkBroker` does."""
    policy = OpenPiModel(f"openpi://{address.removeprefix('ws://')}")
    try:
        while time.monotonic() < until:
            result = await policy.infer({"state": np.ones(6, np.float32)})
            for action in np.asarray(result["actions"])[:_OWN_CHUNK]:
                played.append(round(float(action[0]), 4))
                await asyncio.sleep(_STEP_S)
    finally:
        await policy.aclose()
