"""LeRobot's own client, unmodified, by its command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import Open
from tests.peers.conftest import with_lerobot

pytestmark = [pytest.mark.peer, pytest.mark.slow]


COUNTING = """
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.robots import Robot, RobotConfig


@RobotConfig.register_subclass("counting")
@dataclass(kw_only=True)
class CountingConfig(RobotConfig):
    number: int
    log: Path


class Counting(Robot):
    config_class, name = CountingConfig, "counting"
    observation_features = {"a.pos": float, "b.pos": float, "front": (48, 64, 3)}
    action_features = {"a.pos": float, "b.pos": float}
    is_connected = is_calibrated = True

    def __init__(self, config):
        super().__init__(config)
        self.config = config

    def connect(self, calibrate=True): ...
    def disconnect(self): ...
    def calibrate(self): ...
    def configure(self): ...

    def get_observation(self):
        image = np.full((48, 64, 3), self.config.number, np.uint8)
        return {"a.pos": float(self.config.number), "b.pos": 0.5, "front": image}

    def send_action(self, action):
        with self.config.log.open("a") as log:
            log.write(json.dumps(action) + "\\n")
        return action
"""


@pytest.mark.timeout(900)  # the first run installs 5.5 GB
async def test_two_lerobot_clients_at_once_play_their_own_actions(lerobot: Open, tmp_path: Path) -> None:
    python = await asyncio.to_thread(with_lerobot)
    plugin, about = tmp_path / "lerobot_robot_counting.py", tmp_path / "lerobot_robot_counting-1.dist-info"
    plugin.write_text(COUNTING)
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_robot_counting\nVersion: 1\n")
    logs = {number: tmp_path / f"played-{number}" for number in (1, 2)}
    seen: list[dict[str, Any]] = []

    def policy(observation: dict[str, Any]) -> Any:
        seen.append(observation)
        return np.tile(observation["observation.state"], (20, 1))

    async with lerobot(policy) as (_, gateway), contextlib.AsyncExitStack() as clients:
        for number, log in logs.items():
            client = await asyncio.create_subprocess_exec(
                *(str(python), "-m", "lerobot.async_inference.robot_client", "--robot.type=counting"),
                *(f"--robot.number={number}", f"--robot.log={log}", f"--robot.id=arm{number}", "--task=count"),
                *("--policy_type=act", "--pretrained_name_or_path=policies/act", "--actions_per_chunk=20"),
                f"--server_address={gateway.address}",
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
                stderr=asyncio.subprocess.DEVNULL,
            )
            clients.push_async_callback(client.wait)
            clients.callback(client.kill)
        async with asyncio.timeout(120):
            while min(len(_played(log)) for log in logs.values()) < 150:  # noqa: ASYNC110 (files of other processes)
                await asyncio.sleep(0.2)
    for number, log in logs.items():
        assert set(_played(log)) == {json.dumps({"a.pos": float(number), "b.pos": 0.5})}
    assert {name: np.shape(value) for name, value in seen[0].items()} == {
        "observation.state": (2,),
        "observation.images.front": (48, 64, 3),
        "task": (),
    }


def _played(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []
