"""GR00T's protocol, with a client written from its published format: a plain REQ socket and msgpack."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
import zmq.asyncio

from inferential import LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.schema import Gr00tConfig
from inferential.gateway import Gr00tGateway

Open = Callable[..., AbstractAsyncContextManager[tuple[Server, Gr00tGateway]]]


class Policy:
    """Twice the state, over 4 steps; it batches."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.sizes.append(len(observations))
        return [{"action.arm": np.tile(one["state.arm"] * 2, (4, 1))} for one in observations]


@pytest.fixture
def opened() -> Open:
    """`async with opened(model=..., api_token=...) as (server, gateway):`"""

    @asynccontextmanager
    async def start(policy: Any = None, **told: Any) -> AsyncIterator[tuple[Server, Gr00tGateway]]:
        config = InferentialConfig(server={"drain_timeout_s": 0.0})
        dispatcher = LocalDispatcher({"gr00t": policy or Policy()})
        async with (
            Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server,
            Gr00tGateway(server, Gr00tConfig(**{"model": "gr00t", "port": 0, **told})) as gateway,
        ):
            yield server, gateway

    return start


def encode(value: Any) -> Any:
    output = io.BytesIO()
    np.save(output, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": output.getvalue()}


def decode(told: dict[Any, Any]) -> Any:
    if "__ndarray_class__" in told:
        return np.load(io.BytesIO(told["as_npy"]), allow_pickle=False)
    return told


class Client:
    """As the published one: a REQ socket, one request after another."""

    def __init__(self, address: str, api_token: str | None = None) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.connect(address)
        self._token = api_token

    async def call(self, endpoint: str | None = None, data: Any = None) -> Any:
        request = {
            name: value
            for name, value in (("endpoint", endpoint), ("data", data), ("api_token", self._token))
            if value is not None
        }
        return await self.send(msgpack.packb(request, default=encode))

    async def send(self, message: bytes) -> Any:
        await self._socket.send(message)
        return msgpack.unpackb(await asyncio.wait_for(self._socket.recv(), 20), object_hook=decode)

    def close(self) -> None:
        self._context.destroy(linger=0)


@asynccontextmanager
async def client(gateway: Gr00tGateway, token: str | None = None) -> AsyncIterator[Client]:
    made = Client(gateway.address, token)
    try:
        yield made
    finally:
        made.close()


STATE = {"state.arm": np.arange(3.0), "video.ego": np.zeros((1, 4, 4, 3), np.uint8), "annotation.task": "pick"}


async def test_the_older_form_is_answered_by_the_action(opened: Open) -> None:
    async with opened() as (_, gateway), client(gateway) as robot:
        answer = await robot.call(data=STATE)
        np.testing.assert_array_equal(answer["action.arm"], np.tile([0.0, 2.0, 4.0], (4, 1)))
        assert set(answer) == {"action.arm"}


async def test_the_newer_form_is_answered_by_action_and_info(opened: Open) -> None:
    async with opened() as (_, gateway), client(gateway) as robot:
        action, info = await robot.call("get_action", {"observation": STATE, "options": None})
        assert action["action.arm"].shape == (4, 3)
        assert info == {}


async def test_nested_observations_are_joined(opened: Open) -> None:
    seen: dict[str, Any] = {}

    def look(one: dict[str, Any]) -> Any:
        seen.update(one)
        return np.zeros((1, 1))

    nested = {"video": {"ego": np.zeros((1, 2, 2, 3), np.uint8)}, "language": {"task": "pick"}}
    async with opened(look) as (_, gateway), client(gateway) as robot:
        await robot.call("get_action", {"observation": nested})
    assert seen["video/ego"].shape == (1, 2, 2, 3)
    assert seen["language/task"] == "pick"


async def test_the_small_endpoints(opened: Open) -> None:
    async with opened(modality_config={"state": ["arm"]}) as (_, gateway), client(gateway) as robot:
        assert await robot.call("ping") == {"status": "ok", "message": "Server is running"}
        assert await robot.call("get_modality_config") == {"state": ["arm"]}
        assert await robot.call("reset") == {}
        assert "no endpoint 'dance'" in (await robot.call("dance"))["error"]


async def test_kill_is_refused_and_all_go_on(opened: Open) -> None:
    async with opened() as (_, gateway), client(gateway) as robot:
        assert "kill: refused" in (await robot.call("kill"))["error"]
        assert "action.arm" in await robot.call(data=STATE)


async def test_the_token_is_checked_on_every_request(opened: Open) -> None:
    async with opened(api_token="s3cret") as (_, gateway):
        for token, right in (("s3cret", True), ("other", False), (None, False)):
            async with client(gateway, token) as robot:
                answer = await robot.call("ping")
                assert ("status" in answer) == right
                assert right or answer["error"] == "ValueError: Unauthorized: Invalid API token"


async def test_many_at_once_are_batched_and_each_gets_its_own(opened: Open) -> None:
    policy = Policy()
    async with opened(policy) as (_, gateway):
        robots = [Client(gateway.address) for _ in range(16)]

        async def drive(number: int, robot: Client) -> None:
            for step in range(10):
                answer = await robot.call(data={"state.arm": np.array([number, step], np.float32)})
                assert answer["action.arm"][0].tolist() == [2 * number, 2 * step]

        await asyncio.gather(*(drive(number, robot) for number, robot in enumerate(robots)))
        for robot in robots:
            robot.close()
    assert sum(policy.sizes) == 160
    assert max(policy.sizes) > 1


async def test_a_failing_model_is_told_and_the_robot_goes_on(opened: Open) -> None:
    async with opened() as (_, gateway), client(gateway) as robot:
        assert "ModelFailed" in (await robot.call(data={"other": np.zeros(1)}))["error"]
        assert "action.arm" in await robot.call(data=STATE)


class Evil:
    """Would run something when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def evil_array() -> bytes:
    output = io.BytesIO()
    np.save(output, np.array([Evil()], dtype=object), allow_pickle=True)
    return output.getvalue()


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def archive() -> bytes:
    output = io.BytesIO()
    np.savez_compressed(output, a=np.zeros(50_000))
    return output.getvalue()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        pickle.dumps(Evil()),
        msgpack.packb([1]),
        msgpack.packb({"data": 7}),
        msgpack.packb({"data": {"state": {"__ndarray_class__": True}}}),
        msgpack.packb({"data": {"state": {"__ndarray_class__": True, "as_npy": b"no"}}}),
        msgpack.packb({"data": {"state": {"__ndarray_class__": True, "as_npy": evil_array()}}}),
        *(
            msgpack.packb({"data": {"state": {"__ndarray_class__": True, "as_npy": data}}})
            for data in (
                archive(),
                archive()[:100],
                npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }\n", bytes(8)),
                npy(b"{'descr': '<f4', 'fortran_order':$False, 'sha"),
                npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
            )
        ),
    ],
)
async def test_hostile_bytes_are_refused_and_hurt_nobody(opened: Open, message: bytes) -> None:
    async with opened() as (_, gateway), client(gateway) as bad, client(gateway) as good:
        assert "ValueError" in (await bad.send(message))["error"]
        assert "action.arm" in await good.call(data=STATE)


async def test_a_robot_that_disappears_while_it_waits_hurts_nobody(opened: Open) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        entered.set()
        await leave.wait()
        return one["state.arm"]

    async with opened(slow) as (_, gateway), client(gateway) as good:
        gone = Client(gateway.address)
        asking = asyncio.create_task(gone.call(data=STATE))
        await entered.wait()
        asking.cancel()
        gone.close()
        leave.set()
        assert (await good.call(data=STATE))["actions"].tolist() == [0, 1, 2]
