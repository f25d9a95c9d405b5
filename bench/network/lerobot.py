"""A robot by the rules of LeRobot's asynchronous client (0.6.1), over the gateway; none of its code.

Its control loop sends an observation, and waits until that has arrived, whenever the queue of actions is at or below
half a chunk; another task asks for actions all the time. Of an answer the actions that were played already are dropped,
and those that are queued already are merged: 0.3 of the old one and 0.7 of the new one.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from typing import Any

import grpc.aio
import numpy as np
from tests.gateway.lerobot_robot import RemotePolicyConfig, Robot, TimedObservation, dumped

from bench.network.robots import CHUNK_HZ
from bench.network.seen import Seen

_CHUNK = 50
_THRESHOLD = 0.5
_OLD, _NEW = 0.3, 0.7
_AGAIN_S = 0.1


async def drive(address: str, image: Any, seconds: float, seen: Seen) -> None:
    """Runs the robot at HOST:PORT; a call that fails is made again, as the client does."""
    channel_options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000))
    async with grpc.aio.insecure_channel(address, channel_options) as channel:
        robot = Robot(channel)
        await robot.begin(_instructions(image))
        client = _Client(robot, image, seen)
        receiving = asyncio.create_task(client.receive())
        due = seen.start()
        print("ready", flush=True)
        while due < seen.started_at + seconds:
            seen.steps.append((due, client.play()))
            await client.observe()
            due += 1 / CHUNK_HZ
            while due < time.monotonic():  # the control loop waited for the network
                seen.steps.append((due, False))
                due += 1 / CHUNK_HZ
            await asyncio.sleep(due - time.monotonic())
        receiving.cancel()
        await asyncio.wait([receiving])


class _Client:
    """The queue of actions, by their timestep."""

    def __init__(self, robot: Robot, image: Any, seen: Seen) -> None:
        self._robot = robot
        self._image = image
        self._seen = seen
        self._queue: dict[int, Any] = {}
        self._latest = -1  # the newest action that was played
        self._observed: dict[int, float] = {}

    def play(self) -> bool:
        """Plays the next action; returns whether there was one."""
        if not self._queue:
            return False
        self._latest = min(self._queue)
        del self._queue[self._latest]
        return True

    async def observe(self) -> None:
        """Sends an observation where few actions are left."""
        if len(self._queue) / _CHUNK > _THRESHOLD:
            return
        step, now = max(self._latest, 0), time.monotonic()
        values = {"joint.pos": float(step), "front": self._image, "task": "pick"}
        self._observed[step] = now
        try:
            await self._robot.send(dumped(TimedObservation(time.time(), step, values, not self._queue)))
        except grpc.aio.AioRpcError:
            await asyncio.sleep(_AGAIN_S)

    async def receive(self) -> None:
        """Asks for actions all the time, and merges them."""
        while True:
            try:
                actions = await self._robot.actions()
            except (grpc.aio.AioRpcError, pickle.UnpicklingError):
                await asyncio.sleep(_AGAIN_S)
                continue
            usable = [one for one in actions if one.timestep > self._latest]
            if usable:
                self._seen.answers.append((time.monotonic(), self._observed.get(actions[0].timestep, 0.0)))
            for one in usable:
                old = self._queue.get(one.timestep)
                self._queue[one.timestep] = one.action if old is None else _OLD * old + _NEW * np.asarray(one.action)


def main() -> None:
    """Runs a robot: `python -m bench.network.lerobot HOST PORT SECONDS BYTES`.

    It prints a line when it begins, and what it saw as JSON.
    """
    host, port, seconds, size = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    image, seen = np.random.default_rng(0).integers(0, 255, size, np.uint8).reshape(-1, 10, 1), Seen()
    asyncio.run(drive(f"{host}:{port}", image, seconds, seen))
    print(json.dumps({"answers": seen.answers, "steps": seen.steps}))


def _instructions(image: Any) -> bytes:
    names = ["joint.pos"]
    shape = tuple(image.shape)
    features = {
        "observation.state": {"dtype": "float32", "shape": (1,), "names": names},
        "observation.images.front": {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]},
    }
    return dumped(RemotePolicyConfig("act", "policies/act", features, _CHUNK))


if __name__ == "__main__":
    main()
