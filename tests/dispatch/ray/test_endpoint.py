"""An endpoint and a link to it, on real sockets, without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from inferential.dispatch.base import Answer, RemoteModelError, ReplicaLost
from inferential.dispatch.ray.endpoint import Addresses, Endpoint
from inferential.dispatch.ray.link import Link
from inferential.observation.slots import ObservationError
from inferential.proto import inferential_pb2 as pb
from inferential.proto.images import encode
from inferential.proto.tensors import pack
from inferential.scheduler.request import InferenceRequest

KEYS = tuple(key.decode() for key in zmq.curve_keypair())
Start = Callable[..., tuple[Endpoint, Addresses]]
Connect = Callable[..., Any]


class Doubles:
    """A model that can batch, wait and fail."""

    max_batch_size = 4

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.entered = threading.Event()

    def infer(self, observation: dict[str, Any]) -> Any:
        if "wait" in observation:
            self.entered.set()
            self.may_go_on.wait(10)
        if "fail" in observation:
            raise ValueError("no such arm")
        if "odd" in observation:
            return {"actions": object()}
        return {"actions": observation["state"] * 2, "said": "yes"}

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [self.infer(observation) for observation in observations]


def row(*strings: str, **values: Any) -> InferenceRequest:
    """A request as it comes from a robot."""
    message = pb.Observation(client=pb.Client(id="c"), model_id="m")
    payload = pack(message.tensors, list(values.items()))
    for key in strings:
        message.metadata[key] = "1"
    return InferenceRequest("c", "m", b"", message.SerializeToString(), payload, 0.0, 0.0, None, 0.1, 50.0, 1)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts endpoints, and closes them."""
    started: list[Endpoint] = []

    def _start(model: Any, max_inflight: int = 1) -> tuple[Endpoint, Addresses]:
        endpoint = Endpoint(
            model, max_inflight=max_inflight, model_version="v7", directory=tmp_path / "s", host="127.0.0.1"
        )
        started.append(endpoint)
        addresses = endpoint.start()
        endpoint.allow(KEYS[0])
        return endpoint, addresses

    yield _start
    for endpoint in started:
        endpoint.close(1.0)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects links, and waits until they are up."""
    context: zmq.Context[Any] = zmq.Context()
    links: list[Link] = []

    async def _connect(address: str, server_key: str = "", keys: Any = KEYS, wait: bool = True) -> Link:
        changed = asyncio.Event()
        link = Link(context, "r1", address, server_key, keys, lambda link: changed.set())
        links.append(link)
        if wait:
            async with asyncio.timeout(5):
                await changed.wait()
        return link

    yield _connect
    for link in links:
        link.close()
    context.term()


@pytest.mark.parametrize("near", [True, False], ids=["ipc", "tcp"])
async def test_a_batch_goes_over_and_comes_back_row_by_row(start: Start, connect: Connect, near: bool) -> None:
    _, addresses = start(Doubles())
    link = await (connect(addresses.ipc) if near else connect(addresses.tcp, addresses.public_key))
    assert (link.greeting.max_batch_size, link.greeting.max_inflight) == (4, 1)
    state = np.arange(30_000, dtype=np.float32)
    good, bad, odd, best = await link.call([row(state=state), row("fail"), row("odd"), row(state=state[:2])], 0)
    assert isinstance(good, Answer)
    np.testing.assert_array_equal(good.values["actions"], state * 2)
    assert (good.values["said"], good.model_version) == ("yes", "v7")
    assert isinstance(bad, RemoteModelError)
    assert (str(bad), bad.cause) == ("ValueError: no such arm", "ValueError")
    assert isinstance(odd, RemoteModelError)
    np.testing.assert_array_equal(best.values["actions"], [0.0, 2.0])


async def test_images_are_decoded_in_the_replica_and_a_broken_one_fails_alone(start: Start, connect: Connect) -> None:
    _, addresses = start(lambda observation: observation["camera"])
    link = await connect(addresses.ipc)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    broken = row(camera=encode(image, pb.PNG))
    broken.payload = b"x" * len(broken.payload)
    (right,) = await link.call([row(camera=encode(image, pb.PNG))], 0)
    (wrong,) = await link.call([broken], 0)
    np.testing.assert_array_equal(right.values["actions"], image)
    assert isinstance(wrong, ObservationError)


async def test_who_has_not_the_key_does_not_get_in(start: Start, connect: Connect) -> None:
    _, addresses = start(Doubles())
    stranger = tuple(key.decode() for key in zmq.curve_keypair())
    link = await connect(addresses.tcp, addresses.public_key, stranger, wait=False)
    other = await connect(addresses.tcp, stranger[0], wait=False)  # an endpoint that is not who it should be
    known = await connect(addresses.tcp, addresses.public_key)  # comes later, and is up: the others had their time
    assert known.up
    assert not link.up
    assert not other.up
    with pytest.raises(ReplicaLost):
        await link.call([row(state=np.ones(2))], 0)


def test_nobody_else_may_look_into_the_directory_of_the_sockets(start: Start, tmp_path: Path) -> None:
    start(Doubles())
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


async def test_a_call_that_runs_when_the_replica_says_goodbye_ends_well(start: Start, connect: Connect) -> None:
    model = Doubles()
    endpoint, addresses = start(model)
    link = await connect(addresses.ipc)
    call = asyncio.create_task(link.call([row("wait", state=np.ones(2))], 0))
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, model.entered.wait, 5)
    closing = loop.run_in_executor(None, endpoint.close, 5.0)
    while link.up:  # noqa: ASYNC110 (nothing tells of it)
        await asyncio.sleep(0)
    with pytest.raises(ReplicaLost):
        await link.call([row(state=np.ones(2))], 0)
    model.may_go_on.set()
    (answer,) = await call
    np.testing.assert_array_equal(answer.values["actions"], [2.0, 2.0])
    await closing


async def test_a_retired_link_ends_with_its_last_call(start: Start, connect: Connect) -> None:
    model = Doubles()
    _, addresses = start(model)
    link = await connect(addresses.ipc)
    call = asyncio.create_task(link.call([row("wait", state=np.ones(2))], 0))
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 5)
    link.retire()
    assert not link.closed
    model.may_go_on.set()
    await call
    assert link.closed


async def test_a_call_is_lost_with_its_connection(start: Start, connect: Connect) -> None:
    model = Doubles()
    _, addresses = start(model)
    link = await connect(addresses.ipc)
    call = asyncio.create_task(link.call([row("wait", state=np.ones(2))], 0))
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 5)
    link.close()
    with pytest.raises(ReplicaLost, match="r1"):
        await call
    model.may_go_on.set()


async def test_servers_take_turns_at_a_replica_that_is_busy(start: Start, connect: Connect) -> None:
    order: list[str] = []
    model = Doubles()

    def infer(observation: dict[str, Any]) -> Any:
        order.append(next(key for key in observation if key != "state"))
        return model.infer(observation)

    endpoint, addresses = start(infer)
    crowd, single = await connect(addresses.ipc), await connect(addresses.ipc)
    calls = [asyncio.create_task(crowd.call([row("wait", state=np.ones(2))], 0))]
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 5)
    calls += [asyncio.create_task(crowd.call([row("crowd", state=np.ones(2))], 6)) for _ in range(3)]
    calls.append(asyncio.create_task(single.call([row("single", state=np.ones(2))], 0)))
    while endpoint.load < 1 + 4 + 6:  # noqa: ASYNC110 (nothing tells of it)
        await asyncio.sleep(0)
    model.may_go_on.set()
    await asyncio.gather(*calls)
    assert order.index("single") <= 2
    assert len(order) == 5


def test_a_directory_that_others_can_enter_is_not_used(start: Start, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o755)
    with pytest.raises(OSError, match="only this user can enter"):
        start(Doubles())
