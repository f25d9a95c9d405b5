"""Other projects' clients and servers from PyPI, unmodified, each in an environment of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import HORIZON, ChunkPolicy, Open
from tests.peers.conftest import (
    run_client,
    with_franka,
    with_openpi_client,
    with_openpi_server,
    with_unitree_g1,
)

from inferential import LocalDispatcher, Server
from inferential.dispatch.openpi import OpenPiModel
from inferential.proto.msgpack_numpy import pack

pytestmark = pytest.mark.peer


def port_of(gateway: Any) -> str:
    return str(gateway.address.rpartition(":")[2])


# inspect-robots-unitree-g1 0.1.1: GR00T, arrays as msgpack-numpy writes them

UNITREE = """
import json, sys, threading
import numpy as np
from inspect_robots.scene import Scene
from inspect_robots.types import Observation
from inspect_robots_unitree_g1.policy import Gr00tPolicy

port, count, steps = map(int, sys.argv[1:])
found = []

def drive(number):
    policy = Gr00tPolicy(port=port)
    policy.reset(Scene(id="s", instruction=f"pick up cup {number}"))
    for step in range(steps):
        state = {
            "joint_pos": np.full(16, number / 100 + step / 1000),
            "left_leg": np.zeros(6), "right_leg": np.zeros(6), "waist": np.zeros(3),
        }
        chunk = policy.act(Observation(images={"head_cam": np.full((48, 64, 3), number, np.uint8)}, state=state))
        found.append([number, step, len(chunk.actions), chunk.actions[0].data.tolist()])

threads = [threading.Thread(target=drive, args=(n,)) for n in range(count)]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps(found))
"""


class Humanoid:
    """Returns the arms' positions over 16 steps, in four keys; it batches."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.seen += observations
        return [self._one(one["state"]) for one in observations]

    def _one(self, state: dict[str, Any]) -> dict[str, Any]:
        arms = {name: np.repeat(state[name], 16, axis=1) for name in ("left_arm", "right_arm")}
        return {**arms, "left_hand": np.ones((1, 16, 1), np.float32), "right_hand": np.zeros((1, 16, 1), np.float32)}


async def test_8_unitree_g1_clients_get_their_own_actions_over_several_keys(gr00t: Open) -> None:
    policy = Humanoid()
    async with gr00t(policy) as (server, gateway):
        found = await run_client(with_unitree_g1(), UNITREE, port_of(gateway), "8", "10")
        assert len(server.status().clients) == 8
    assert len(found) == 80
    for number, step, length, action in found:
        joints = np.float32(number / 100 + step / 1000)
        assert length == 16
        assert action == [*[float(joints)] * 7, 1.0, *[float(joints)] * 7, 0.0]
    one = policy.seen[0]
    assert set(one) == {"video", "state", "language"}
    assert one["video"]["ego_view"].shape == (1, 1, 48, 64, 3)
    assert one["language"]["annotation.human.task_description"][0][0].startswith("pick up cup")


# openpi-client 0.1.2

MANY = """
import json, sys, threading
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, count = int(sys.argv[1]), int(sys.argv[2])
clients = [WebsocketClientPolicy("127.0.0.1", port) for _ in range(count)]
wrong, answers, begin = [], [], threading.Barrier(count)

def work(number):
    begin.wait()
    for step in range(20):
        state = np.array([number, step, 0.5])
        image = np.full((32, 32, 3), number, np.uint8)
        answer = clients[number].infer({"observation/state": state, "observation/image": image, "prompt": "go"})
        expected = state[None, :] + np.arange(10)[:, None]
        answers.append(number)
        if not np.array_equal(answer["actions"], expected):
            wrong.append([number, step])

threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps({"answers": len(answers), "wrong": wrong, "metadata": clients[0].get_server_metadata()}))
"""


async def test_16_openpi_clients_at_once_are_batched_and_each_gets_its_own(openpi: Open) -> None:
    policy = ChunkPolicy()
    async with openpi(policy, metadata={"action_horizon": HORIZON}) as (server, gateway):
        found = await run_client(with_openpi_client(), MANY, port_of(gateway), "16")
        assert len(server.status().clients) == 16
    assert found == {"answers": 320, "wrong": [], "metadata": {"action_horizon": HORIZON}}
    assert max(policy.sizes) > 1


BROKER = """
import json, sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = ActionChunkBroker(WebsocketClientPolicy("127.0.0.1", int(sys.argv[1])), action_horizon=10)
steps = [policy.infer({"observation/state": np.zeros(2)})["actions"].tolist() for _ in range(25)]
print(json.dumps(steps))
"""


async def test_the_action_chunk_broker_plays_chunks(openpi: Open) -> None:
    policy = ChunkPolicy()
    async with openpi(policy) as (_, gateway):
        steps = await run_client(with_openpi_client(), BROKER, port_of(gateway))
    assert steps == [[float(step % 10)] * 2 for step in range(25)]
    assert len(policy.sizes) == 3


KEYS = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

def ask(key):
    try:
        policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]), api_key=key)
        return policy.infer({"observation/state": np.zeros(1)})["actions"].shape[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

print(json.dumps([ask("right"), ask("wrong"), ask(None)]))
"""


async def test_keys_are_checked(openpi: Open) -> None:
    async with openpi(api_keys=["other", "right"]) as (_, gateway):
        right, wrong, none = await run_client(with_openpi_client(), KEYS, port_of(gateway))
    assert right == HORIZON
    assert "401" in wrong
    assert "401" in none


CODEC = """
import json, sys
import numpy as np
from openpi_client import msgpack_numpy

value = msgpack_numpy.unpackb(bytes.fromhex(sys.argv[1]))
image = value["image"]
print(json.dumps({"packed": msgpack_numpy.packb(value).hex(), "shape": image.shape, "sum": int(image.sum())}))
"""


async def test_openpis_codec_reads_what_ours_writes_and_writes_the_same() -> None:
    value = {"image": np.arange(24, dtype=np.uint16).reshape(2, 3, 4), "scale": np.float32(0.5), "list": [1, "a", None]}
    packed = pack(value)
    found = await run_client(with_openpi_client(), CODEC, packed.hex())
    assert found == {"packed": packed.hex(), "shape": [2, 3, 4], "sum": 276}


# inspect-robots-franka 0.1.0: openpi, flat keys of DROID

FRANKA = """
import json, sys
import numpy as np
from inspect_robots.scene import Scene
from inspect_robots.types import Observation
from inspect_robots_franka.policy import OpenpiPolicy

policy = OpenpiPolicy(port=int(sys.argv[1]))
policy.reset(Scene(id="s", instruction="open the drawer"))
images = {name: np.zeros((480, 640, 3), np.uint8) for name in ("exterior_cam", "wrist_cam")}
chunks = [policy.act(Observation(images=images, state={"joint_pos": np.full(8, 0.5)})) for _ in range(10)]
print(json.dumps([len(chunk.actions) for chunk in chunks]))
"""


async def test_a_franka_gets_chunks(openpi: Open) -> None:
    seen: dict[str, Any] = {}

    def droid(observation: dict[str, Any]) -> Any:
        seen.update(observation)
        return {"actions": np.zeros((15, 8)), "policy_timing": {"infer_ms": 1.0}, "note": None, "tags": ["a", "b"]}

    async with openpi(droid) as (_, gateway):
        lengths = await run_client(with_franka(), FRANKA, port_of(gateway))
    assert lengths == [15] * 10
    assert seen["observation/exterior_image_1_left"].shape == (224, 224, 3)
    assert seen["prompt"] == "open the drawer"


# openpi-server 0.1.0: a policy server behind us

POLICY_SERVER = """
import asyncio, json, socket, sys, time
import numpy as np
from openpi_server.websocket_policy_server import WebsocketPolicyServer

def describe(value):
    if isinstance(value, dict):
        return {name: describe(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [describe(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return value

class Policy:
    def infer(self, observation):
        time.sleep(observation.get("seconds", 0))  # in the event loop, as that server does
        return {
            "actions": np.ones((10, 7)), "seen": json.dumps(describe(observation)),
            "policy_timing": {"infer_ms": 4.5}, "note": None, "tags": ["a", "b"],
        }

async def main():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = asyncio.ensure_future(WebsocketPolicyServer(Policy(), "127.0.0.1", port, {"name": "pi0-aloha"}).run())
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            break
        except OSError:
            await asyncio.sleep(0.02)
    print(port, flush=True)
    await server

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def policy_server() -> AsyncIterator[str]:
    """Runs the real policy server; gives its target."""
    process = await asyncio.create_subprocess_exec(
        str(with_openpi_server()),
        "-c",
        POLICY_SERVER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        port = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        yield f"openpi://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.communicate()


ALOHA = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
answer = policy.infer({
    "images": {"cam_high": np.zeros((3, 4, 4), np.uint8)}, "images/cam_high": np.zeros((3, 4, 4), np.uint8),
    "state": np.zeros(14, np.float32), "prompt": "fold", "step": 3, "joints": [1.5, 2.5], "mask": None, "words": ["a"],
})
answer["actions"] = answer["actions"].shape
print(json.dumps({"answer": answer, "metadata": policy.get_server_metadata()}))
"""


async def test_an_openpi_client_reaches_an_openpi_server_behind_us_as_if_it_were_alone(openpi: Open) -> None:
    async with policy_server() as target, openpi(OpenPiModel(target)) as (_, gateway):
        found = await run_client(with_openpi_client(), ALOHA, port_of(gateway))
    answer = found["answer"]
    assert found["metadata"] == {"name": "pi0-aloha"}
    assert json.loads(answer["seen"]) == {
        "images": {"cam_high": "uint8[3, 4, 4]"},
        "images/cam_high": "uint8[3, 4, 4]",
        "state": "float32[14]",
        "prompt": "fold",
        "step": 3,
        "joints": [1.5, 2.5],
        "mask": None,
        "words": ["a"],
    }
    assert answer["actions"] == [10, 7]
    assert (answer["policy_timing"], answer["note"], answer["tags"]) == ({"infer_ms": 4.5}, None, ["a", "b"])
    assert answer["server_timing"]["infer_ms"] > 0


async def test_robots_of_our_own_sdk_get_the_arrays_of_an_openpi_server() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    async with (
        policy_server() as target,
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": OpenPiModel(target)})) as server,
    ):
        connection = server.connect("arm-01")
        state = np.zeros(7, ml_dtypes.bfloat16)
        result = await connection.model("pi0").infer(60_000, state=state, prompt="fold")
        connection.close()
    assert result is not None
    assert result["actions"].shape == (10, 7)
    assert result["policy_timing/infer_ms"] == 4.5
    assert json.loads(result["seen"]) == {"state": "float32[7]", "prompt": "fold"}
    assert "inferential.structure" not in result
