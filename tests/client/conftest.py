"""Fakes: a ROUTER that plays a server of this line or of the 1.x line, and connections for threads and asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from inferential import AsyncConnection, Connection
from inferential.client import sync
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.mailbox import Mailbox
from inferential.client.session import Session
from inferential.observation.values import read_slots, to_values
from inferential.proto import Client, ModelResponse, Observation
from inferential.proto.messages import ResponseTiming, content_of, write_refusal, write_response
from inferential.proto.tensors import pack

WAIT_MS = 60_000
QUICK = {"reconnect_ivl_ms": 5, "reconnect_max_ms": 50}
TIMING = ResponseTiming(queue_ms=1.0, inference_ms=2.0, server_ms=4.0, batch_size=3)
Frames = tuple[bytes, Any]


class Seen:
    """An observation as the server sees it."""

    def __init__(self, identity: bytes, envelope: bytes, payload: bytes) -> None:
        self.identity = identity
        self.message = Observation.FromString(envelope)
        self.payload = payload

    @property
    def request_id(self) -> int:
        return self.message.request_id

    @property
    def values(self) -> dict[str, Any]:
        """As a model would see them."""
        slots, metadata = read_slots(self.message.SerializeToString(), len(self.payload))
        return to_values(slots, metadata, self.payload)


def result_of(seen: Seen, **values: Any) -> Frames:
    """A result as this line sends it: `actions=...`, else `n` of the observation."""
    return write_response(
        client_id=seen.message.client.id,
        model_id=seen.message.model_id,
        response_id=f"r{seen.request_id}",
        timestamp_ns=1,
        request_id=seen.request_id,
        values=values or {"actions": seen.values["n"]},
        timing=TIMING,
    )


def old_result_of(seen: Seen, **values: np.ndarray[Any, Any]) -> Frames:
    """A result as the 1.x line sends it: no request id, no timing, no version."""
    message = ModelResponse(client=Client(id=seen.message.client.id), response_id="old", model_id=seen.message.model_id)
    message.inference_latency_ms = 2.0
    payload = pack(message.tensors, values or {"actions": seen.values["n"]})
    return message.SerializeToString(), payload


def refusal_of(seen: Seen, status: str, reason: str = "because") -> Frames:
    envelope = write_refusal(
        client_id=seen.message.client.id,
        model_id=seen.message.model_id,
        request_id=seen.request_id,
        status=status,
        reason=reason,
    )
    return envelope, b""


class Peer:
    """A server in the test's hands; it can go away and come back on its port."""

    def __init__(self) -> None:
        self.address = "tcp://127.0.0.1:0"
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.start()

    def start(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self._socket.bind(self.address)
        self.address = self._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    def stop(self) -> None:
        """Gone, what it had not read with it."""
        if self._context is not None:
            self._socket.close(linger=0)
            self._context.term()
            self._context = None

    def close(self) -> None:
        if self._context is not None:
            self._socket.close()
            self._context.term()
            self._context = None

    def receive(self) -> Seen:
        """The next observation; zmq.Again where none comes."""
        identity, empty, envelope, payload = self._socket.recv_multipart()
        assert empty == b""
        return Seen(identity, envelope, payload)

    async def next(self) -> Seen:
        """The same, for a test on an event loop."""
        return await asyncio.to_thread(self.receive)

    def is_quiet(self) -> bool:
        """Whether nothing has come."""
        return not self._socket.poll(0)

    def send(self, seen: Seen, frames: Frames) -> None:
        self._socket.send_multipart([seen.identity, b"", *frames])

    def send_raw(self, seen: Seen, *frames: bytes) -> None:
        """Any frames at all."""
        self._socket.send_multipart([seen.identity, *frames])

    @contextmanager
    def serving(self, answer: Callable[[Seen], Frames] = result_of) -> Iterator[None]:
        """Answers every observation, in a thread of its own."""
        done = threading.Event()
        failed: list[BaseException] = []

        def serve() -> None:
            try:
                while not done.is_set():
                    if self._socket.poll(10):
                        seen = self.receive()
                        self.send(seen, answer(seen))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        assert not failed, failed


class InThreads:
    """A sync connection with the asyncio one's face: each call runs in a thread."""

    def __init__(self, connection: Connection) -> None:
        self.sync = connection
        self.client_id, self.stats, self.close = connection.client_id, connection.stats, connection.close
        self.sizes = connection.sizes

    def model(self, *args: Any, **inputs: Any) -> Any:
        return _HandleInThreads(self.sync.model(*args, **inputs))


class _HandleInThreads:
    def __init__(self, model: Any) -> None:
        self.model_id = model.model_id
        self._model = model

    async def observe(self, *args: Any, **inputs: Any) -> Any:
        return await asyncio.to_thread(self._model.observe, *args, **inputs)

    async def get_result(self, *args: Any, **inputs: Any) -> Any:
        return await asyncio.to_thread(self._model.get_result, *args, **inputs)

    async def infer(self, *args: Any, **inputs: Any) -> Any:
        return await asyncio.to_thread(self._model.infer, *args, **inputs)

    async def reset(self) -> None:
        await asyncio.to_thread(self._model.reset)


@pytest.fixture
def peer() -> Iterator[Peer]:
    opened = Peer()
    yield opened
    opened.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`observe` of a sync connection waits as long as it takes: how busy the machine is decides no test."""
    monkeypatch.setattr(sync, "FIRST_CONNECT_MS", WAIT_MS)
    monkeypatch.setattr(sync, "FULL_SOCKET_MS", WAIT_MS)


@pytest.fixture
def result_for() -> Callable[..., Frames]:
    return result_of


@pytest.fixture
def old_result_for() -> Callable[..., Frames]:
    return old_result_of


@pytest.fixture
def refusal_for() -> Callable[..., Frames]:
    return refusal_of


@pytest.fixture
def open_connection(peer: Peer) -> Iterator[Callable[..., Connection]]:
    """`open_connection("robot")`, to the peer; closed after the test."""
    opened: list[Connection] = []

    def connected(client_id: str | int = "robot", **options: Any) -> Connection:
        opened.append(Connection(options.pop("server", peer.address), client_id, **{**QUICK, **options}))
        return opened[-1]

    yield connected
    for connection in opened:
        connection.close()


@pytest.fixture(params=["threads", "asyncio"])
async def connect(request: pytest.FixtureRequest, peer: Peer) -> AsyncIterator[Callable[..., Any]]:
    """`connect("robot")`: a connection of either kind to the peer, its handles to await; closed after the test."""
    opened: list[Any] = []
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))  # for as many calls that wait at once

    def connected(client_id: str | int = "robot", **options: Any) -> Any:
        inputs = (options.pop("server", peer.address), client_id)
        if request.param == "asyncio":
            opened.append(AsyncConnection(*inputs, **{**QUICK, **options}))
        else:
            opened.append(InThreads(Connection(*inputs, **{**QUICK, **options})))
        return opened[-1]

    yield connected
    for connection in opened:
        connection.close()


def make_handle(model_id: str = "m", queue: Any = "latest") -> Handle:
    return Handle(model_id, 50.0, 1, queue, EncodingRules(None))


class Talk:
    """A session without a socket: observations into frames, and answers made of them."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def mailbox(self, model_id: str = "m", queue: Any = "latest") -> Mailbox:
        return self.session.mailbox(make_handle(model_id, queue))

    def observe(self, mailbox: Mailbox, n: int = 0, *, keep: bool = False, now: float = 0.0) -> Seen:
        """What the server would see of it."""
        request_id, frames = self.session.observe(
            mailbox,
            content_of({"n": np.array(n)}),
            {},
            now=now,
            timestamp_ns=1,
            keep=keep,
        )
        seen = self.seen(frames)
        assert seen.request_id == request_id
        return seen

    def seen(self, frames: Any) -> Seen:
        """What the server would see of frames."""
        return Seen(self.session.client_id.encode(), frames[1], bytes(frames[2]))

    def hold(self, mailbox: Mailbox, n: int = 0, *, keep: bool = False) -> Seen:
        """The same, of one that could not be sent."""
        seen = self.observe(mailbox, n, keep=keep)
        self.session.hold(mailbox, seen.request_id, (b"", seen.message.SerializeToString(), seen.payload))
        return seen

    def answer(self, seen: Seen, now: float = 0.0, **values: Any) -> None:
        self.session.receive(*result_of(seen, **values), now)

    def answer_old(self, seen: Seen) -> None:
        self.session.receive(*old_result_of(seen), 0.0)

    def refuse(self, seen: Seen, status: str) -> None:
        self.session.receive(*refusal_of(seen, status), 0.0)


@pytest.fixture
def talk() -> Talk:
    return Talk(Session("robot", "arm"))


@pytest.fixture
def new_talk() -> Callable[[], Talk]:
    return lambda: Talk(Session("robot", "arm"))
