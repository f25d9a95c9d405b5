"""openpi's websocket protocol, with the client from PyPI in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from tests.peers.conftest import with_openpi_client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from inferential import InferenceRequest, LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.schema import OpenPiConfig
from inferential.dispatch.base import RemoteModelError
from inferential.dispatch.openpi import OpenPiModel
from inferential.gateway import OpenPiGateway
from inferential.proto.msgpack_numpy import pack, unpack

HORIZON = 10
Open = Callable[..., AbstractAsyncContextManager[tuple[Server, OpenPiGateway]]]


class Policy:
    """Chunks of the state, counted up; it batches, and notes the sizes of its batches."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.sizes.append(len(observations))
        return [self._one(one) for one in observations]

    def _one(self, observation: dict[str, Any]) -> Any:
        if observation.get("prompt") == "fail":
            return ValueError("no such cup")
        state = np.asarray(observation["observation/state"], np.float64)
        return {"actions": state[None, :] + np.arange(HORIZON)[:, None]}


@pytest.fixture
def opened() -> Open:
    """`async with opened(model=..., api_keys=[...]) as (server, gateway):`"""

    @asynccontextmanager
    async def start(
        policy: Any = None, scheduling: Mapping[str, Any] = MappingProxyType({}), **told: Any
    ) -> AsyncIterator[tuple[Server, OpenPiGateway]]:
        config = InferentialConfig(server={"drain_timeout_s": 0.0}, scheduling=scheduling)
        dispatcher = LocalDispatcher({"pi0": policy or Policy()})
        async with Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server:
            gateway = OpenPiGateway(server, OpenPiConfig(**{"model": "pi0", "port": 0, **told}))
            async with gateway:
                yield server, gateway

    return start


@pytest.fixture(scope="session")
def openpi_client() -> Path:
    return with_openpi_client()


def observation(**values: Any) -> dict[str, Any]:
    return {"observation/state": np.arange(3.0), "prompt": "pick up the cup", **values}


async def run_client(python: Path, script: str, *args: str) -> Any:
    """What a program with the real client prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", script, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


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


@pytest.mark.peer
async def test_16_real_clients_at_once_are_batched_and_each_gets_its_own(openpi_client: Path, opened: Open) -> None:
    policy = Policy()
    async with opened(policy, metadata={"action_horizon": HORIZON}) as (server, gateway):
        told = await run_client(openpi_client, MANY, gateway.address.rpartition(":")[2], "16")
        assert len(server.status().clients) == 16
    assert told == {"answers": 320, "wrong": [], "metadata": {"action_horizon": HORIZON}}
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


@pytest.mark.peer
async def test_the_real_action_chunk_broker_plays_chunks(openpi_client: Path, opened: Open) -> None:
    policy = Policy()
    async with opened(policy) as (_, gateway):
        steps = await run_client(openpi_client, BROKER, gateway.address.rpartition(":")[2])
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


@pytest.mark.peer
async def test_keys_are_checked(openpi_client: Path, opened: Open) -> None:
    async with opened(api_keys=["other", "right"]) as (_, gateway):
        right, wrong, none = await run_client(openpi_client, KEYS, gateway.address.rpartition(":")[2])
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


@pytest.mark.peer
async def test_the_real_codec_reads_what_ours_writes_and_writes_the_same(openpi_client: Path) -> None:
    value = {"image": np.arange(24, dtype=np.uint16).reshape(2, 3, 4), "scale": np.float32(0.5), "list": [1, "a", None]}
    packed = pack(value)
    told = await run_client(openpi_client, CODEC, packed.hex())
    assert told == {"packed": packed.hex(), "shape": [2, 3, 4], "sum": 276}


async def asked(address: str, **values: Any) -> Any:
    async with connect(address, compression=None) as websocket:
        await websocket.recv()
        await websocket.send(pack(observation(**values)))
        answer = await websocket.recv()
        return answer if isinstance(answer, str) else unpack(answer)


@pytest.mark.parametrize("path", ["", "/", "/v1/realtime/robot/openpi"])
async def test_both_paths_lead_to_the_model(opened: Open, path: str) -> None:
    async with opened() as (_, gateway):
        answer = await asked(gateway.address + path)
    np.testing.assert_array_equal(answer["actions"][:, 0], np.arange(HORIZON))
    assert answer["policy_timing"]["infer_ms"] > 0
    assert answer["server_timing"]["infer_ms"] >= answer["policy_timing"]["infer_ms"]


async def test_the_second_answer_tells_how_long_the_first_took(opened: Open) -> None:
    async with opened() as (_, gateway), connect(gateway.address) as websocket:
        await websocket.recv()
        timings = []
        for _ in range(2):
            await websocket.send(pack(observation()))
            timings.append(unpack(await websocket.recv())["server_timing"])
    assert "prev_total_ms" not in timings[0]
    assert timings[1]["prev_total_ms"] > 0


async def test_health_and_other_paths(opened: Open) -> None:
    async with opened(api_keys=["k"]) as (_, gateway):
        http = gateway.address.replace("ws://", "http://")

        def get(path: str) -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(http + path) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        assert await asyncio.to_thread(get, "/healthz") == (200, b"OK\n")
        assert (await asyncio.to_thread(get, "/other"))[0] == 404
        with pytest.raises(InvalidStatus, match="401"):
            await connect(gateway.address)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"prompt": "fail"}, "ModelFailed: ValueError: no such cup"),
        ({"depth": None}, "ValueError: depth: expected an array, a number, a list of numbers, a map or a string"),
        ({"words": ["a", "b"]}, "ValueError: words: expected an array"),
        ({"a": {"b": 1}, "a/b": 2}, "ValueError: observation: there are two values of key 'a/b'"),
    ],
)
async def test_a_failure_is_told_as_text_and_ends_the_connection(
    opened: Open, values: dict[str, Any], text: str
) -> None:
    async with opened() as (_, gateway), connect(gateway.address) as websocket:
        await websocket.recv()
        await websocket.send(pack(observation(**values)))
        assert str(await websocket.recv()).startswith(text)
        with pytest.raises(ConnectionClosedError) as caught:
            await websocket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1011


FULL = {"max_queue_size": 1, "overflow_policy": "reject_newest"}


async def test_a_robot_that_finds_no_room_is_answered_once_there_is(opened: Open) -> None:
    refused, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        await leave.wait()
        return one["observation/state"]

    async with opened(slow, FULL) as (server, gateway):

        @server.on_request
        def note(request: InferenceRequest) -> None:
            if request.refusal is not None:
                refused.set()

        answers = [asyncio.create_task(asked(gateway.address)) for _ in range(3)]  # at the model, waiting, one too many
        await refused.wait()
        leave.set()
        assert [answer["actions"].tolist() for answer in await asyncio.gather(*answers)] == [[0, 1, 2]] * 3


async def test_a_robot_that_never_finds_room_is_told(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.base._PAUSES_S", (0.0, 0.0))
    leave = asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        await leave.wait()
        return one["observation/state"]

    async with opened(slow, FULL) as (_, gateway):
        answers = [asyncio.create_task(asked(gateway.address)) for _ in range(3)]
        (first,), others = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert first.result().startswith("RequestRejected: ")
        leave.set()
        assert [answer["actions"].tolist() for answer in await asyncio.gather(*others)] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("message", [b"\xc1", b"", b"\x93\x01\x02\x03", "text", pack({b"__ndarray__": True})])
async def test_strange_messages_are_told_of_and_hurt_nobody_else(opened: Open, message: Any) -> None:
    async with opened() as (_, gateway), connect(gateway.address) as good:
        await good.recv()
        async with connect(gateway.address) as bad:
            await bad.recv()
            await bad.send(message)
            assert "ValueError" in str(await bad.recv())
        await good.send(pack(observation()))
        assert unpack(await good.recv())["actions"].shape == (HORIZON, 3)


async def test_nested_maps_are_joined_and_numbers_become_arrays(opened: Open) -> None:
    seen: dict[str, Any] = {}

    def look(one: dict[str, Any]) -> Any:
        seen.update(one)
        return {"actions": np.zeros((2, 1)), "confidence": 0.5}

    async with opened(look) as (_, gateway):
        answer = await asked(gateway.address, images={"left": np.zeros((2, 2), np.uint8)}, gripper=1, joints=[1.0, 2.0])
    assert seen["images/left"].shape == (2, 2)
    assert seen["gripper"].shape == ()
    assert seen["joints"].tolist() == [1.0, 2.0]
    assert seen["prompt"] == "pick up the cup"
    assert answer["confidence"] == 0.5  # a number: clients slice every array by its first axis


async def test_keys_may_be_called_like_our_own_arguments(opened: Open) -> None:
    async with opened(lambda one: one["priority"]) as (_, gateway):
        answer = await asked(gateway.address, priority=np.arange(2), urgency=0.1, timeout_ms=3, self=1)
    assert answer["actions"].tolist() == [0, 1]


async def test_a_robot_may_have_a_name_of_its_own(opened: Open) -> None:
    async with opened() as (server, gateway):
        async with connect(gateway.address, additional_headers={"X-Client-Id": "arm-7"}) as websocket:
            await websocket.recv()
            await websocket.send(pack(observation()))
            await websocket.recv()
        assert [client.client_id for client in server.status().clients] == ["arm-7"]


async def test_a_robot_that_leaves_while_it_waits_frees_what_it_held(opened: Open) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        entered.set()
        await leave.wait()
        return one["observation/state"]

    async with opened(slow) as (server, gateway):
        async with connect(gateway.address) as websocket:
            await websocket.recv()
            await websocket.send(pack(observation()))
            await entered.wait()
        async with asyncio.timeout(10):
            while server.status().sizes["inprocess_clients"]:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.01)
        leave.set()
        answer = await asked(gateway.address)
        assert answer["actions"].tolist() == [0, 1, 2]


# The other way round


async def test_a_policy_server_of_openpi_is_a_model_like_any_other(opened: Open) -> None:
    async with opened(metadata={"name": "pi0"}) as (_, gateway):
        target = gateway.address.replace("ws://", "openpi://")
        model = OpenPiModel(target)
        async with opened(model) as (behind, outer):
            answers = await asyncio.gather(
                *(asked(outer.address, **{"observation/state": np.full(2, n)}) for n in range(6))
            )
            assert [answer["actions"][0].tolist() for answer in answers] == [[n, n] for n in range(6)]
            assert behind.status().models[0].calls == 6
            assert "ModelFailed" in await asked(outer.address, prompt="fail")
            assert "actions" in await asked(outer.address)


async def test_a_policy_server_that_goes_is_told_of_and_found_again_when_it_is_back(opened: Open) -> None:
    async with opened() as (_, gateway):
        port = int(gateway.address.rpartition(":")[2])
        model = OpenPiModel(f"openpi://127.0.0.1:{port}")
        one = {"observation/state": np.zeros(1)}
        assert (await model.infer(one))["actions"].shape == (HORIZON, 1)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await model.infer(one)
    async with opened(port=port):
        assert (await model.infer(one))["actions"].shape == (HORIZON, 1)
        with pytest.raises(RemoteModelError, match="no such cup"):
            await model.infer({**one, "prompt": "fail"})
        await model.aclose()


async def test_its_key_is_sent_and_its_silence_ends(opened: Open) -> None:
    async def silent(one: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with opened(silent, api_keys=["k"]) as (_, gateway):
        target = gateway.address.replace("ws://", "openpi://")
        with pytest.raises(ConnectionError, match="HTTP 401"):
            await OpenPiModel(target).infer({})
        with pytest.raises(TimeoutError, match="did not answer within"):
            await OpenPiModel(target, "k", timeout_s=0.2).infer({"observation/state": np.zeros(1)})


@pytest.mark.parametrize("target", ["openpi://", "openpi://host:port", "ws://host:1"])
def test_an_address_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="expected openpi://HOST:PORT"):
        OpenPiModel(target)
