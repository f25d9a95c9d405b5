"""Clients of POST /act from PyPI, unmodified: inspect-robots-yam, and OpenVLA's example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import Open
from tests.peers.conftest import run_client, with_yam

pytestmark = pytest.mark.peer


# inspect-robots-yam 0.37.0: POST /act in JSON

YAM = """
import json, sys, threading
import numpy as np
from inspect_robots.scene import Scene
from inspect_robots.types import Observation
from inspect_robots_yam.policy import ActServerPolicy

url, count, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = []

def drive(number):
    policy = ActServerPolicy(server_url=url)
    policy.reset(Scene(id="s", instruction=f"fold towel {number}"))
    images = {name: np.full((224, 224, 3), number, np.uint8) for name in ("top_cam", "left_cam", "right_cam")}
    for step in range(steps):
        chunk = policy.act(Observation(images=images, state={"joint_pos": np.full(14, number + step / 100)}))
        found.append([number, step, len(chunk.actions), chunk.actions[0].data.tolist(), chunk.control_hz])

threads = [threading.Thread(target=drive, args=(n,)) for n in range(count)]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps(found))
"""


class Bimanual:
    """Returns the state over 30 steps; it batches."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.seen += observations
        return [{"actions": np.tile(one["state"], (30, 1))} for one in observations]


async def test_8_yam_clients_get_their_own_actions(act: Open) -> None:
    policy = Bimanual()
    async with act(policy, dt_ms=20.0) as (_, gateway):
        found = await run_client(with_yam(), YAM, gateway.address, "8", "10")
    assert len(found) == 80
    for number, step, length, action, control_hz in found:
        assert (length, control_hz) == (30, 50.0)
        np.testing.assert_allclose(action, np.full(14, np.float32(number + step / 100)))
    one = policy.seen[0]
    assert set(one) == {"top_cam", "left_cam", "right_cam", "instruction", "state", "num_steps"}
    assert (one["top_cam"].shape, one["num_steps"]) == ((224, 224, 3), 10)


OPENVLA = """
import json, sys
import json_numpy
json_numpy.patch()
import numpy as np
import requests

request = {"image": np.zeros((256, 256, 3), np.uint8), "instruction": "do something"}
plain = requests.post(f"{sys.argv[1]}/act", json=request).json()
doubled = json_numpy.loads(requests.post(f"{sys.argv[1]}/act", json={"encoded": json_numpy.dumps(request)}).json())
print(json.dumps([plain.tolist(), doubled.tolist(), str(plain.dtype)]))
"""


async def test_openvlas_example_gets_an_action_plain_and_doubly_encoded(act: Open) -> None:
    async with act(lambda one: one["image"][0, 0, :1] + np.arange(7.0)) as (_, gateway):
        found = await run_client(with_yam(), OPENVLA, gateway.address)
    assert found == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], "float64"]
