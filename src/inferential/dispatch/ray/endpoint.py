"""The socket in a replica, over which servers call its model.

It runs in a thread of its own, with an event loop of its own; it decides nothing but whose call runs next where
servers together send more than the model takes at once: one from each in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from inferential.dispatch.base import as_values
from inferential.dispatch.local import LocalDispatcher
from inferential.dispatch.ray.wire import CALL, GOODBYE, HELLO, NO_CALL, RESULT, Greeting, WatchedSocket, write_row
from inferential.proto.tensors import Buffer
from inferential.scheduler.request import InferenceRequest

logger = logging.getLogger("inferential.ray")

MODEL = "model"  # a replica has one
_LINGER_MS = 500
_STARTS_WITHIN_S = 30.0
_TOLD_HOLDS_S = 1.0  # a server with requests that wait calls again within that, or they wait no more
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
        ipc: for servers on the same host, by the same user: the directory lets in nobody else.
        tcp: for all others, encrypted and authenticated both ways (CURVE, RFC 26 of ZeroMQ).
        public_key: the endpoint's, z85.
    """

    ipc: str
    tcp: str
    public_key: str


@dataclass(slots=True)
class _Call:
    """One call that came in."""

    socket: WatchedSocket
    identity: bytes
    number: bytes
    rows: list[InferenceRequest]


class Endpoint:
    """Serves one model to servers.

    Args:
        model: as of `LocalDispatcher`; async methods run on the endpoint's own event loop.
        max_inflight: calls at once.
        model_version: told with every result.
        directory: of the ipc socket; nobody else may read it.
        host: where the tcp socket listens, or "" for none.
    """

    def __init__(self, model: Any, *, max_inflight: int, model_version: str, directory: Path, host: str) -> None:
        self._local = LocalDispatcher({MODEL: model})
        self._greeting = Greeting(self._local.max_batch_size(MODEL), max_inflight, model_version)
        self._directory = directory
        self._host = host
        self._allowed = AllowedKeys()
        self._waiting: OrderedDict[bytes, deque[_Call]] = OrderedDict()
        self._told_waiting: dict[bytes, tuple[float, int]] = {}  # when, and how many
        self._running: dict[bytes, tuple[float, int]] = {}  # by call: since when, and rows
        self._drain_s = 0.0
        self._servers: dict[bytes, WatchedSocket] = {}
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
    def load(self) -> float:
        """Rows that run or wait here, and those that wait for this replica on the servers."""
        here = sum(len(call.rows) for calls in list(self._waiting.values()) for call in list(calls))
        running = sum(rows for _, rows in list(self._running.values()))
        lately = time.monotonic() - _TOLD_HOLDS_S
        return here + running + sum(rows for at, rows in list(self._told_waiting.values()) if at > lately)

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
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            logger.exception("the replica's endpoint failed")
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
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
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self._directory}: expected a directory that only this user can enter (mode 700)")
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
        return watched, Addresses(ipc, tcp, public.decode())

    def _router(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        return socket

    def _taking(self, sockets: list[WatchedSocket], number: int) -> Callable[[list[zmq.Frame]], None]:
        return lambda frames: self._take(sockets[number], frames)

    def _take(self, socket: WatchedSocket, frames: Sequence[zmq.Frame]) -> None:
        if len(frames) < 4:
            logger.warning("a message of %d frames from a server: dropped", len(frames))
            return
        identity, call_number, kind = (frame.bytes for frame in frames[:3])
        if kind == HELLO:
            self._servers[identity] = socket
            self._send(socket, [identity, NO_CALL, HELLO, self._greeting.to_bytes()])
        elif kind == CALL:
            self._told_waiting[identity] = time.monotonic(), int.from_bytes(frames[3].bytes, "little")
            rows = [_as_request(frames[at].buffer, frames[at + 1].buffer) for at in range(4, len(frames) - 1, 2)]
            call = _Call(socket, identity, call_number, rows)
            self._waiting.setdefault(identity, deque()).append(call)
            self._begin()

    def _begin(self) -> None:
        """Begins what may run: the oldest call of the server whose turn it is."""
        assert self._loop is not None
        while self._waiting and len(self._running) < self._greeting.max_inflight:
            identity, calls = self._waiting.popitem(last=False)
            call = calls.popleft()
            if calls:
                self._waiting[identity] = calls  # at the end: the others' turn comes first
            self._running[identity + call.number] = time.monotonic(), len(call.rows)
            task = self._loop.create_task(self._run(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, call: _Call) -> None:
        try:
            outcomes = await self._local.outcomes(call.rows, "")
            frames: list[Buffer] = [call.identity, call.number, RESULT, self._greeting.model_version.encode()]
            for outcome in outcomes:
                frames.extend(_written(outcome))
            self._send(call.socket, frames)
        finally:
            del self._running[call.identity + call.number]
            self._begin()

    def _say_goodbye(self) -> None:
        for identity, socket in list(self._servers.items()):
            self._send(socket, [identity, NO_CALL, GOODBYE, b""])

    def _send(self, socket: WatchedSocket, frames: Sequence[Buffer]) -> None:
        try:
            socket.send(frames)
        except OSError as error:
            identity = bytes(frames[0])
            # Its server is gone, and with it whoever waited for this; its calls that wait need not run.
            logger.info("a server is gone: %s", error)
            for table in (self._servers, self._told_waiting, self._waiting):
                table.pop(identity, None)


def _as_request(envelope: Buffer, payload: Buffer) -> InferenceRequest:
    """A row, as far as reading it is concerned; the server has checked it."""
    return InferenceRequest(
        client_id="",
        model_id=MODEL,
        identity=b"",
        envelope=envelope,
        payload=payload,
        received_at=0.0,
        urgency=0.0,
        steps_remaining=None,
        time_until_next=0.0,
        latency_budget_ms=0.0,
        priority=0,
    )


def _written(outcome: Any) -> tuple[bytes, Buffer]:
    try:
        return write_row(outcome if isinstance(outcome, Exception) else as_values(outcome))
    except (TypeError, ValueError) as error:  # a result that the wire cannot carry fails alone
        return write_row(error)
