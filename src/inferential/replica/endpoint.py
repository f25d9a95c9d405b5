"""The socket in a replica, over which servers call its model.

It runs in a thread of its own, with an event loop of its own; it decides nothing but whose call runs next where
servers together send more than the model takes at once: one from each in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from inferential.dispatch.local import LocalDispatcher
from inferential.dispatch.outcomes import Answer
from inferential.dispatch.started_tasks import contain, run_contained
from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import Buffer
from inferential.replica.directory import prepare
from inferential.replica.endpoint_rows import MODEL, as_request, seen, written
from inferential.replica.shared import Offer, ReplicasMemory, open_memory
from inferential.replica.wire import (
    CALL,
    FREE,
    GONE,
    GOODBYE,
    HELLO,
    NO_CALL,
    RESULT,
    Greeting,
    read_head,
    write_offsets,
)
from inferential.replica.zmq_socket import WatchedSocket
from inferential.scheduler.request import InferenceRequest
from inferential.transport.memory import raise_mmap_threshold

logger: logging.Logger = logging.getLogger("inferential.ray")

_LINGER_MS = 500
_STARTS_WITHIN_S = 30.0
_NEAR = 0  # the number of the socket that only this user's processes reach
_GONE_WITHIN_S = 0.1  # ZeroMQ tells of a connection's end before it has forgotten it
_REPORT_HOLDS_S = 1.0  # a server with requests that wait calls again within that, or they wait no more
# A peer that says nothing for so long is dead or stopped; it is noticed well within a second.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 150, 450


class AllowedKeys:
    """The public keys that may call; what `zmq.auth` asks."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a key (z85) is among them."""
        return key in self.keys


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where an endpoint listens.

    Attributes:
        ipc: for servers on the same host, by the same user: the directory lets in no other user.
        tcp: for all others, encrypted and authenticated both ways (CURVE, RFC 26 of ZeroMQ).
        public_key: the endpoint's, z85.
    """

    ipc: str
    tcp: str
    public_key: str


@dataclass(slots=True)
class _Server:
    """A server that has said hello.

    Attributes:
        socket, identity: the way to it.
        memory: what it shares with this replica.
        waiting: how many requests wait there for this replica, as it said at `reported_at`.
        calls: what it wants to have run, in order.
    """

    socket: WatchedSocket
    identity: bytes
    memory: ReplicasMemory | None
    reported_at: float = 0.0
    waiting: int = 0
    calls: deque[_Call] = field(default_factory=deque)


@dataclass(slots=True)
class _Call:
    """One call that came in."""

    server: _Server
    number: bytes
    rows: list[InferenceRequest]


class Endpoint:
    """Serves one model to servers.

    Args:
        model: as for `LocalDispatcher`; async methods run on the endpoint's own event loop.
        max_inflight: calls at once.
        model_version: gives the model's version as it is now; sent with every result. A model may be swapped within its
            replica, as by Serve's `user_config`.
        directory: of the ipc socket; no other user may read it.
        host: where the tcp socket listens, or "" for none.
    """

    def __init__(
        self, model: Any, *, max_inflight: int, model_version: Callable[[], str], directory: Path, host: str
    ) -> None:
        self._local = LocalDispatcher({MODEL: model})
        self._model_version = model_version
        self._keeps_state = self._local.keeps_state(MODEL)
        self._greeting = Greeting(
            self._local.max_batch_size(MODEL), 1 if self._keeps_state else max_inflight, keeps_state=self._keeps_state
        )
        self._directory = directory
        self._host = host
        self._allowed = AllowedKeys()
        self._servers: dict[bytes, _Server] = {}
        self._turns: deque[_Server] = deque()  # those with calls that wait, each once
        self._running: dict[int, tuple[float, int]] = {}  # by call: since when, and rows
        self._drain_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: Addresses | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name="inferential-endpoint", daemon=True)

    def start(self) -> Addresses:
        """Begins to listen.

        Raises:
            OSError: it cannot.
        """
        self._thread.start()
        self._ready.wait(_STARTS_WITHIN_S)
        if self._addresses is None:
            raise OSError(f"the replica's endpoint did not start: {self._failure}") from self._failure
        return self._addresses

    def allow(self, public_key: str) -> None:
        """Lets servers with that key in, and no others."""
        self._allowed.keys = {public_key.encode()}

    @property
    def server_count(self) -> int:
        """How many servers are connected."""
        return len(self._servers)

    @property
    def load(self) -> float:
        """Rows that run or wait here, and those that wait for this replica on the servers."""
        servers = list(self._servers.values())
        here = sum(len(call.rows) for server in servers for call in list(server.calls))
        running = sum(rows for _, rows in list(self._running.values()))
        lately = time.monotonic() - _REPORT_HOLDS_S
        return here + running + sum(server.waiting for server in servers if server.reported_at > lately)

    @property
    def is_alive(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive()

    def busy_s(self) -> float:
        """For how long the oldest call has run."""
        now = time.monotonic()
        return now - min((since for since, _ in list(self._running.values())), default=now)

    def close(self, drain_s: float) -> None:
        """Says goodbye, ends what it has, for `drain_s` at most, and closes; from any thread."""
        loop, stop = self._loop, self._stop
        if loop is None or stop is None or not self._thread.is_alive():
            return
        self._drain_s = drain_s
        with contextlib.suppress(RuntimeError):  # it ended by itself meanwhile
            loop.call_soon_threadsafe(stop.set)
        self._thread.join(drain_s + 1.0)

    # The endpoint's own thread

    def _main(self) -> None:
        try:
            run_contained(self._serve())
        except BaseException as error:
            self._failure = error
            logger.exception("the replica's endpoint failed")
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        contain(self._loop)
        raise_mmap_threshold()
        await self._local.start()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback(credentials_provider=self._allowed)
        sockets: list[WatchedSocket] = []
        try:
            sockets, self._addresses = self._listen(context)
            self._ready.set()
            await self._stop.wait()
            self._say_goodbye()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._drain_s)
        finally:
            for socket in sockets:
                socket.close(_LINGER_MS)
            authenticator.stop()
            await self._local.close()
            context.term()

    def _listen(self, context: zmq.Context[zmq.Socket[bytes]]) -> tuple[list[WatchedSocket], Addresses]:
        prepare(self._directory)
        ipc = f"ipc://{self._directory}/{threading.get_native_id()}-{time.monotonic_ns():x}"
        public, secret = zmq.curve_keypair()
        local = self._router(context)
        local.bind(ipc)
        sockets, tcp = [local], ""
        if self._host:
            remote = self._router(context)
            remote.setsockopt(zmq.CURVE_SERVER, 1)
            remote.setsockopt(zmq.CURVE_PUBLICKEY, public)
            remote.setsockopt(zmq.CURVE_SECRETKEY, secret)
            port = remote.bind_to_random_port(f"tcp://{self._host}")
            sockets.append(remote)
            tcp = f"tcp://{self._host}:{port}"
        watched: list[WatchedSocket] = []
        for number, socket in enumerate(sockets):
            watched.append(WatchedSocket(socket, self._taking(watched, number)))
        monitors = [socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for socket in sockets]
        watched.extend(WatchedSocket(monitor, self._on_disconnected) for monitor in monitors)
        return watched, Addresses(ipc, tcp, public.decode())

    def _router(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, 0)  # no more waits than servers have calls here
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        return socket

    def _taking(self, sockets: list[WatchedSocket], number: int) -> Callable[[list[zmq.Frame]], None]:
        return lambda frames: self._take(sockets[number], number == _NEAR, frames)

    def _take(self, socket: WatchedSocket, is_near: bool, frames: Sequence[zmq.Frame]) -> None:
        if len(frames) < 4:
            logger.warning("a message of %d frames from a server: dropped", len(frames))
            return
        identity, call_number, kind = (frame.bytes for frame in frames[:3])
        if kind == HELLO:
            # Only this user's processes can open the other end.
            memory = _opened(frames[3].buffer) if is_near else None
            greeting = replace(self._greeting, memory="" if memory is None else memory.token)
            self._servers[identity] = _Server(socket, identity, memory)
            self._send(self._servers[identity], [NO_CALL, HELLO, greeting.to_bytes()])
        elif kind == CALL and identity in self._servers:
            self._take_call(self._servers[identity], call_number, frames[3:])
        elif kind == GONE and self._keeps_state:
            for client_id in json.loads(frames[3].bytes):
                self._local.end_session(client_id)
        # Else it is a call that waited in a connection which broke: the server has given it up.

    def _take_call(self, server: _Server, number: bytes, frames: Sequence[zmq.Frame]) -> None:
        envelopes, payloads = frames[1::2], frames[2::2]
        try:
            server.waiting, places = read_head(frames[0].buffer, len(envelopes))
            rows = [
                self._as_request(envelope.buffer, payload.buffer if place is None else seen(server.memory, place))
                for envelope, payload, place in zip(envelopes, payloads, places, strict=True)
            ]
        except ValueError as error:
            logger.error("a call of a server cannot be read: %s", error)
            self._answer(server, number, "", [error] * len(envelopes))
            return
        server.reported_at = time.monotonic()
        if not server.calls:
            self._turns.append(server)
        server.calls.append(_Call(server, number, rows))
        self._begin()

    def _as_request(self, envelope: Buffer, payload: Buffer) -> InferenceRequest:
        request = as_request(envelope, payload)
        if self._keeps_state:
            message = pb.Observation.FromString(bytes(envelope))
            request.client_id, request.client_type = message.client.id, message.client.type
            request.episode, request.request_id = message.episode, message.request_id
            request.keeps_state = True
        return request

    def _begin(self) -> None:
        """Begins what may run: the oldest call of the server whose turn it is."""
        assert self._loop is not None
        while self._turns and len(self._running) < self._greeting.max_inflight:
            server = self._turns.popleft()
            call = server.calls.popleft()
            if server.calls:
                self._turns.append(server)  # at the end: the others' turn comes first
            self._running[id(call)] = time.monotonic(), len(call.rows)
            task = self._loop.create_task(self._run(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, call: _Call) -> None:
        outcomes: Sequence[Any]
        count, version = len(call.rows), ""
        try:
            version = self._model_version()
            outcomes = await self._local.outcomes(call.rows, "")
        except Exception as error:
            logger.exception("a call failed")
            outcomes = [error] * count
        finally:
            del self._running[id(call)]
            self._begin()
        call.rows.clear()  # and with them the views on shared memory
        self._answer(call.server, call.number, version, outcomes)

    def _answer(self, server: _Server, number: bytes, version: str, outcomes: Sequence[Any]) -> None:
        if self._keeps_state:
            version += "\0" + "".join(str(int(isinstance(one, Answer) and bool(one.fresh))) for one in outcomes)
        frames: list[Buffer] = [number, RESULT, version.encode(errors="replace")]
        for outcome in outcomes:
            frames.extend(written(outcome))
        if server.memory is not None and (freed := server.memory.freed()):
            frames.append(write_offsets(freed))
        self._send(server, frames)

    def _say_goodbye(self) -> None:
        for server in list(self._servers.values()):
            self._send(server, [NO_CALL, GOODBYE, b""])

    def _on_disconnected(self, frames: Sequence[zmq.Frame]) -> None:
        """A server went, or its connection broke; ZeroMQ does not say which one's."""
        assert self._loop is not None
        self._loop.call_later(_GONE_WITHIN_S, self._look_who_is_there)

    def _look_who_is_there(self) -> None:
        for server in list(self._servers.values()):
            freed = [] if server.memory is None else server.memory.freed()
            self._send(server, [NO_CALL, FREE, write_offsets(freed)])

    def _send(self, server: _Server, frames: Sequence[Buffer]) -> None:
        try:
            server.socket.send([server.identity, *frames])
        except OSError as error:
            # It is gone, and with it the robots that waited for this; its calls that wait need not run.
            logger.info("a server is gone: %s", error)
            if self._servers.get(server.identity) is server:
                del self._servers[server.identity]
            if server.calls:
                server.calls.clear()
                self._turns.remove(server)


def _opened(frame: Buffer) -> ReplicasMemory | None:
    if not len(frame):
        return None
    try:
        return open_memory(Offer.from_bytes(frame))
    except (OSError, ValueError) as error:  # in another container, for example: payloads are sent then
        logger.info("a server's memory cannot be shared: %s", error)
        return None
