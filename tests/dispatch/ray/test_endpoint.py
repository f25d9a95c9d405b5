"""An endpoint and a link to it, on real sockets, without Ray."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from inferential.dispatch.base import Answer, RemoteModelError, ReplicaLost
from inferential.dispatch.ray.link import Link
from inferential.observation.slots import ObservationError
from inferential.proto import inferential_pb2 as pb
from inferential.proto.images import encode
from inferential.proto.tensors import pack
from inferential.replica.endpoint import Addresses, Endpoint
from inferential.replica.shared import Offer
from inferential.replica.wire import HELLO, NO_CALL, RESULT, Greeting
from inferential.scheduler.request import InferenceRequest

KEYS = tuple(key.decode() for key in zmq.curve_keypair())
Start = Callable[..., tuple[Endpoint, Addresses]]
Connect = Callable[..., Any]


class Broken(dict[str, Any]):
    """A result that cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("torn")


class Doubles:
    """A model that can batch, wait and fail."""

    max_batch_size = 4

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.entered = threading.Event()

    def infer(self, observation: dict[str, Any]) -> Any:
        if "wait" in observation:
            self.entered.set()
            self.may_go_on.wait(60)
        if "fail" in observation:
            raise ValueError("no such arm")
        if "odd" in observation:
            return {"actions": object()}
        if "broken" in observation:
            return Broken()
        return {"actions": observation["state"] * 2, "said": "yes"}

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [self.infer(observation) for observation in observations]


class OneByOne:
    """As `Doubles`, without batches; notes the order."""

    def __init__(self) -> None:
        self._doubles = Doubles()
        self.entered, self.may_go_on = self._doubles.entered, self._doubles.may_go_on
        self.order: list[str] = []

    def infer(self, observation: dict[str, Any]) -> Any:
        self.order.append(next(key for key in observation if key != "state"))
        return self._doubles.infer(observation)


def row(*strings: str, **values: Any) -> InferenceRequest:
    """A request as it comes from a robot."""
    message = pb.Observation(client=pb.Client(id="c"), model_id="m")
    payload = pack(message.tensors, values)
    for key in strings:
        message.metadata[key] = "1"
    return InferenceRequest("c", "m", b"", message.SerializeToString(), payload, 0.0, 0.0, None, 0.1, 50.0, 1)


@pytest.fixture
def start(short_path: Path) -> Any:
    """Starts endpoints, and closes them."""
    started: list[Endpoint] = []

    def _start(
        model: Any, max_inflight: int = 1, versions: Callable[[], str] = lambda: "v7"
    ) -> tuple[Endpoint, Addresses]:
        endpoint = Endpoint(
            model, max_inflight=max_inflight, model_version=versions, directory=short_path / "s", host="127.0.0.1"
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
            async with asyncio.timeout(60):
                await changed.wait()
        return link

    yield _connect
    for link in links:
        link.close()
    context.destroy(linger=0)  # `term` would wait for ever for a link that could not be made


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


async def test_answers_tell_the_version_that_the_model_had_when_their_call_began(
    start: Start, connect: Connect
) -> None:
    model, version = Doubles(), ["v1"]
    _, addresses = start(model, versions=lambda: version[0])
    link = await connect(addresses.ipc)
    call = asyncio.create_task(link.call([row("wait", state=np.ones(2))], 0))
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 60)
    version[0] = "v2"
    model.may_go_on.set()
    assert (await call)[0].model_version == "v1"
    assert (await link.call([row(state=np.ones(2))], 0))[0].model_version == "v2"


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


def test_no_other_user_may_look_into_the_directory_of_the_sockets(start: Start, short_path: Path) -> None:
    start(Doubles())
    assert (short_path / "s").stat().st_mode & 0o777 == 0o700


async def test_a_call_that_runs_when_the_replica_says_goodbye_ends_well(start: Start, connect: Connect) -> None:
    model = Doubles()
    endpoint, addresses = start(model)
    link = await connect(addresses.ipc)
    call = asyncio.create_task(link.call([row("wait", state=np.ones(2))], 0))
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, model.entered.wait, 60)
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
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 60)
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
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 60)
    link.close()
    with pytest.raises(ReplicaLost, match="r1"):
        await call
    model.may_go_on.set()


async def test_servers_take_turns_at_a_replica_that_is_busy(start: Start, connect: Connect) -> None:
    model = OneByOne()
    endpoint, addresses = start(model)
    crowd, single = await connect(addresses.ipc), await connect(addresses.ipc)
    calls = [asyncio.create_task(crowd.call([row("wait", state=np.ones(2))], 0))]
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 60)
    calls += [asyncio.create_task(crowd.call([row("crowd", state=np.ones(2))], 6)) for _ in range(3)]
    calls.append(asyncio.create_task(single.call([row("single", state=np.ones(2))], 0)))
    while endpoint.load < 1 + 4 + 6:  # noqa: ASYNC110 (nothing tells of it)
        await asyncio.sleep(0)
    model.may_go_on.set()
    await asyncio.gather(*calls)
    assert model.order.index("single") <= 2
    assert len(model.order) == 5


def test_a_directory_that_others_can_enter_is_not_used(start: Start, short_path: Path) -> None:
    (short_path / "s").mkdir(mode=0o755)
    with pytest.raises(OSError, match="only this user can enter"):
        start(Doubles())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)


async def test_a_result_that_cannot_be_read_fails_alone(start: Start, connect: Connect) -> None:
    _, addresses = start(Doubles())
    link = await connect(addresses.ipc)
    good, broken = await link.call([row(state=np.ones(2)), row("broken")], 0)
    assert isinstance(good, Answer)
    assert str(broken) == "RuntimeError: torn"


async def test_large_payloads_go_by_shared_memory_and_leave_it_as_free_as_it_was(
    start: Start, connect: Connect
) -> None:
    _, addresses = start(Doubles())
    link = await connect(addresses.ipc)
    for number in range(100):  # more than there is room for at once
        state = np.full(250_000, number, np.float32)
        large, small = await link.call([row(state=state), row(state=state[:9])], 0)
        np.testing.assert_array_equal(large.values["actions"], state * 2)
        np.testing.assert_array_equal(small.values["actions"], state[:9] * 2)
    assert link.shared_payloads is not None
    assert link.shared_payloads <= 2


async def test_a_model_may_keep_what_it_was_given(start: Start, connect: Connect) -> None:
    kept: list[Any] = []

    def infer(observation: dict[str, Any]) -> Any:
        kept.append(observation["state"])
        return observation["state"][:1]

    _, addresses = start(infer)
    link = await connect(addresses.ipc)
    for number in range(80):  # more than there is room for: the last ones are sent
        await link.call([row(state=np.full(250_000, number, np.float32))], 0)
    assert [float(state.min()) for state in kept] == [float(state.max()) for state in kept] == list(range(80))


async def test_a_result_may_be_what_the_model_was_given(start: Start, connect: Connect) -> None:
    _, addresses = start(lambda observation: observation["state"])
    link = await connect(addresses.ipc)
    states = [np.full(250_000, number, np.float32) for number in range(20)]
    answers = [(await link.call([row(state=state)], 0))[0] for state in states]
    for answer, state in zip(answers, states, strict=True):
        np.testing.assert_array_equal(answer.values["actions"], state)


async def test_a_replica_that_cannot_open_the_memory_is_sent_everything(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(offer: Offer) -> Any:
        raise OSError("it is another process's")

    monkeypatch.setattr("inferential.replica.endpoint.open_memory", refuse)
    _, addresses = start(Doubles())
    link = await connect(addresses.ipc)
    state = np.ones(250_000, np.float32)
    (answer,) = await link.call([row(state=state)], 0)
    np.testing.assert_array_equal(answer.values["actions"], state * 2)
    assert link.shared_payloads is None


async def test_a_server_that_goes_is_forgotten_and_its_calls_that_wait_do_not_run(
    start: Start, connect: Connect
) -> None:
    model = OneByOne()
    endpoint, addresses = start(model)
    going, staying = await connect(addresses.ipc), await connect(addresses.ipc)
    calls = [asyncio.create_task(staying.call([row("wait", state=np.ones(2))], 0))]
    assert await asyncio.get_running_loop().run_in_executor(None, model.entered.wait, 60)
    calls += [asyncio.create_task(going.call([row("going", state=np.ones(2))], 0)) for _ in range(3)]
    calls.append(asyncio.create_task(staying.call([row("staying", state=np.ones(2))], 0)))
    await until(lambda: endpoint.load == 5)
    going.close()
    await until(lambda: endpoint.load == 2)
    assert endpoint.server_count == 1
    model.may_go_on.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [list, ReplicaLost, ReplicaLost, ReplicaLost, list]
    assert model.order == ["wait", "staying"]


class Replica:
    """The other end of a link, frame by frame."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)

    async def receive(self) -> list[bytes]:
        """The next message, the identity in front."""
        return await asyncio.get_running_loop().run_in_executor(None, self._socket.recv_multipart)

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def close(self) -> None:
        self._socket.close()


async def test_a_connection_that_comes_back_is_offered_other_memory(short_path: Path, connect: Connect) -> None:
    context: zmq.Context[Any] = zmq.Context()
    address = f"ipc://{short_path}/replica"
    replica = Replica(context, address)
    try:
        link = await connect(address, wait=False)
        first = Offer.from_bytes((await replica.receive())[3])
        replica.close()
        replica = Replica(context, address)
        identity, *_, frame = await replica.receive()
        second = Offer.from_bytes(frame)
        assert second.token != first.token
        replica.send(identity, NO_CALL, HELLO, Greeting(1, 1, first.token).to_bytes())  # of the first connection
        await until(lambda: link.up)
        assert link.shared_payloads is None
        replica.send(identity, NO_CALL, HELLO, Greeting(1, 1, second.token).to_bytes())
        await until(lambda: link.shared_payloads is not None)
    finally:
        replica.close()
        context.term()


async def test_a_replica_on_this_host_is_connected_to_again_sooner_than_one_elsewhere(short_path: Path) -> None:
    """It lives, where this server itself stood still: its model must not be down for longer than needs be."""
    made: list[zmq.Socket[Any]] = []

    class Noting(zmq.Context[Any]):
        def socket(self, kind: int, *args: Any, **options: Any) -> Any:  # type: ignore[override]
            made.append(super().socket(kind, *args, **options))
            return made[-1]

    context = Noting()
    near = Link(context, "r1", f"ipc://{short_path}/replica", "", KEYS, lambda link: None)
    far = Link(context, "r2", "tcp://127.0.0.1:1", KEYS[0], KEYS, lambda link: None)
    sockets = [one for one in made if one.type == zmq.DEALER]
    assert [one.getsockopt(zmq.RECONNECT_IVL) for one in sockets] == [10, 100]
    assert [one.getsockopt(zmq.RECONNECT_IVL_MAX) for one in sockets] == [100, 100]
    near.close()
    far.close()
    context.destroy(linger=0)


@pytest.mark.parametrize(
    "frames", [(b"{}",), (b"v1", b"no message", b""), (b"v1", b"", b"", b"odd")], ids=["version", "row", "places"]
)
async def test_what_a_replica_should_not_send_ends_the_call(
    short_path: Path, connect: Connect, frames: tuple[bytes, ...]
) -> None:
    context: zmq.Context[Any] = zmq.Context()
    address = f"ipc://{short_path}/replica"
    replica = Replica(context, address)
    try:
        link = await connect(address, wait=False)
        identity = (await replica.receive())[0]
        replica.send(identity, NO_CALL, HELLO, b"no greeting")
        replica.send(identity, NO_CALL, HELLO, Greeting(1, 1).to_bytes())
        await until(lambda: link.up)
        call = asyncio.create_task(link.call([row(state=np.ones(2))], 0))
        number = (await replica.receive())[1]
        replica.send(identity, number, RESULT, *frames)
        with pytest.raises(ReplicaLost):
            await call
    finally:
        replica.close()
        context.term()


def test_sockets_of_replicas_that_were_killed_are_removed(start: Start, short_path: Path) -> None:
    _, alive = start(Doubles())
    old, new = short_path / "s" / "killed", short_path / "s" / "about-to-listen"
    for path in (old, new):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    for path in (old, Path(alive.ipc.removeprefix("ipc://"))):
        os.utime(path, (0, 0))
    _, other = start(Doubles())
    left_over = {f"ipc://{path}" for path in (short_path / "s").iterdir()}
    assert left_over == {alive.ipc, other.ipc, f"ipc://{new}"}


def test_a_link_to_a_directory_is_not_followed(start: Start, short_path: Path) -> None:
    (short_path / "elsewhere").mkdir(mode=0o700)
    (short_path / "s").symlink_to(short_path / "elsewhere")
    with pytest.raises(OSError, match="only this user can enter"):
        start(Doubles())


class Remembers:
    """A model that keeps state of its robots."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def reset(self, session: Any) -> None:
        session.state = 0

    def close(self, session: Any) -> None:
        self.closed.append(session.client_id)

    def infer(self, observation: dict[str, Any], session: Any) -> Any:
        session.state += 1
        return {"steps": session.state, "who": f"{session.client_id} {session.client_type} {session.episode}"}


async def test_a_model_that_keeps_state_gets_the_sessions_of_robots(start: Start, connect: Connect) -> None:
    model = Remembers()
    _, addresses = start(model)
    link = await connect(addresses.ipc)
    assert link.greeting.keeps_state

    def request(episode: int) -> InferenceRequest:
        message = pb.Observation(episode=episode, request_id=1 << 32)
        message.client.id, message.client.type = "arm", "so101"
        payload = pack(message.tensors, {"state": np.ones(1)})
        return InferenceRequest("arm", "m", b"", message.SerializeToString(), payload, 0.0, 0.0, None, 0.0, 50.0, 1)

    answers = [(await link.call([request(episode)], 0))[0] for episode in (0, 0, 1)]
    assert [(int(one.values["steps"]), one.fresh) for one in answers] == [(1, True), (2, False), (1, False)]
    assert answers[2].values["who"] == "arm so101 1"
    link.end_session("arm")
    async with asyncio.timeout(60):
        while not model.closed:  # noqa: ASYNC110 (of another thread)
            await asyncio.sleep(0.01)
