"""A server's connection to the endpoint of one replica.

It chooses no replica and retries nothing: a call that cannot be answered any more raises ReplicaLost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from inferential.dispatch.base import Answer, ReplicaLost
from inferential.dispatch.outcomes import refused_row
from inferential.proto.tensors import Buffer
from inferential.replica.endpoint import HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
from inferential.replica.shared import Place, ServersMemory
from inferential.replica.wire import (
    CALL,
    FREE,
    GONE,
    GOODBYE,
    HELLO,
    NO_CALL,
    RESULT,
    Greeting,
    read_offsets,
    read_row,
    write_head,
)
from inferential.replica.zmq_socket import WatchedSocket
from inferential.scheduler.request import InferenceRequest

logger: logging.Logger = logging.getLogger("inferential.ray")

_RECONNECT_MS = 100
_SOONEST_MS = 10
"""Until a replica on this host is connected to again the first time: it lives where this server itself stood still for
longer than its heartbeats may take."""


class Link:
    """One replica, as its server sees it.

    Args:
        context: of the socket.
        name: of the replica, for messages.
        address: where its endpoint listens.
        server_key: the endpoint's public key (z85) where the address is tcp; "": a socket of this host.
        keys: our own public and secret key, z85.
        on_change: called when it comes up, goes down or says goodbye.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        address: str,
        server_key: str,
        keys: tuple[str, str],
        on_change: Callable[[Link], None],
    ) -> None:
        self.name = name
        self.greeting: Greeting | None = None
        """What it said of itself; None while it is not up."""
        self._on_change = on_change
        self._calls: dict[bytes, asyncio.Future[list[Any]]] = {}
        self._numbers = 0
        self._retired = False
        self._is_near = not server_key
        self._keys = keys
        self._memory: ServersMemory | None = None
        self._shares = False  # whether the replica has opened it
        socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, _SOONEST_MS if self._is_near else _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS)
        if server_key:
            socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys[0].encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys[1].encode())
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        self._monitor = WatchedSocket(socket.get_monitor_socket(events), self._on_event)
        self._zmq_socket = socket
        self._socket = WatchedSocket(socket, self._on_message)
        socket.connect(address)

    @property
    def shared_payloads(self) -> int | None:
        """How many payloads lie in shared memory now; None where the replica is sent all of them."""
        return self._memory.taken if self._memory is not None and self._shares else None

    @property
    def up(self) -> bool:
        """Whether it takes calls."""
        return self.greeting is not None

    @property
    def closed(self) -> bool:
        """Whether its connection has ended for good."""
        return self._zmq_socket.closed

    def fits(self, keys: tuple[str, str]) -> bool:
        """Whether it could connect anew where endpoints let in these keys: those of a connection cannot be changed."""
        return self._is_near or self._keys == keys

    async def call(self, requests: Sequence[InferenceRequest], waiting: int) -> list[Any]:
        """Runs a batch; answers and exceptions, one for each request.

        Args:
            requests: the rows.
            waiting: how many more wait for the replica, for its autoscaler.

        Raises:
            ReplicaLost: it is gone, or went while the call ran.
        """
        if not self.up:
            raise ReplicaLost(f"replica {self.name} is gone")
        self._numbers += 1
        number = self._numbers.to_bytes(8, "little")
        places = [self._place(request.payload) for request in requests]
        frames: list[Buffer] = [number, CALL, write_head(waiting, places)]
        for request, place in zip(requests, places, strict=True):
            frames.extend((request.envelope, request.payload if place is None else b""))
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._socket.send(frames)
            rows: list[Any] = await future
        except OSError as error:
            self._free(place.offset for place in places if place is not None)
            raise ReplicaLost(f"replica {self.name} cannot be reached: {error.strerror}") from error
        finally:
            self._calls.pop(number, None)
            if self._retired and not self._calls:
                self.close()
        if len(rows) != len(requests):
            raise ReplicaLost(f"replica {self.name} gave {len(rows)} results for {len(requests)} observations")
        return rows

    def _place(self, payload: Buffer) -> Place | None:
        return self._memory.put(payload) if self._memory is not None and self._shares else None

    def _free(self, offsets: Iterable[int]) -> None:
        if self._memory is not None:
            for offset in offsets:
                self._memory.give(offset)

    def _offer(self) -> bytes:
        """New memory for a new connection: of the old one it is unknown what the replica still reads."""
        self._take_back()
        if not self._is_near:
            return b""
        try:
            self._memory = ServersMemory()
        except OSError as error:
            logger.info("no memory is shared with replica %s: %s", self.name, error)
            return b""
        return self._memory.offer.to_bytes()

    def _take_back(self) -> None:
        self._shares = False
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def end_session(self, client_id: str) -> None:
        """Ends the session of a robot that is gone."""
        if self.greeting is not None and self.greeting.keeps_state:
            with contextlib.suppress(OSError):  # its sessions end with it
                self._socket.send([NO_CALL, GONE, json.dumps([client_id]).encode()])

    def give_up(self, why: str) -> None:
        """It takes no more calls, and those that run are lost."""
        was_up, self.greeting = self.up, None
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(ReplicaLost(f"replica {self.name} {why}", ran=True))
        if was_up or calls:
            logger.warning("replica %s %s; %d calls were lost", self.name, why, len(calls))
            self._on_change(self)

    def retire(self) -> None:
        """Takes no more calls, and closes when those that run have ended."""
        self.greeting = None
        self._retired = True
        if not self._calls:
            self.close()

    def close(self) -> None:
        """Ends the connection; what runs is lost. Twice is fine."""
        if self._zmq_socket.closed:
            return
        self._zmq_socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._take_back()
        if self._calls:
            self.give_up("was removed")
        self.greeting = None

    # What comes

    def _on_event(self, frames: list[zmq.Frame]) -> None:
        event = parse_monitor_message([frame.bytes for frame in frames])["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            try:
                self._socket.send([NO_CALL, HELLO, self._offer()])
            except OSError as error:
                logger.warning("replica %s cannot be greeted: %s", self.name, error)
        elif event == zmq.EVENT_DISCONNECTED:
            self._socket.drain()  # what it answered before it went is not lost
            self.give_up("ended its connection")
        else:
            logger.error("replica %s refuses our key", self.name)

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        number, kind = frames[0].bytes, frames[1].bytes
        try:
            if kind == RESULT:
                self._on_result(number, frames)
            elif kind == HELLO and not self._retired:
                self._on_greeting(Greeting.from_bytes(frames[2].buffer))
            elif kind == FREE:
                self._free(read_offsets(frames[2].buffer))
            elif kind == GOODBYE:
                self.greeting = None  # the calls that run end well
                logger.info("replica %s says goodbye", self.name)
                self._on_change(self)
        except ValueError as error:
            logger.error("replica %s speaks another protocol: %s", self.name, error)
            future = self._calls.get(number)
            if future is not None and not future.done():
                future.set_exception(ReplicaLost(f"replica {self.name} speaks another protocol: {error}"))

    def _on_greeting(self, greeting: Greeting) -> None:
        self.greeting = greeting
        # It may be the answer to a greeting of a connection before this one, which offered other memory.
        if self._memory is not None and greeting.memory == self._memory.offer.token:
            self._memory.close()
            self._shares = True
        logger.info("replica %s is up", self.name)
        self._on_change(self)

    def _on_result(self, number: bytes, frames: list[zmq.Frame]) -> None:
        if len(frames) % 2 == 0:
            self._free(read_offsets(frames[-1].buffer))
        future = self._calls.get(number)
        if future is None or future.done():
            return  # it was given up
        version, _, fresh = frames[2].bytes.decode().partition("\0")
        rows = range(3, len(frames) - 1, 2)
        known: list[bool | None] = [flag == "1" for flag in fresh] or [None] * len(rows)
        future.set_result(
            [_row(frames[at].buffer, frames[at + 1].buffer, version, one) for at, one in zip(rows, known, strict=True)]
        )


def _row(envelope: Buffer, payload: Buffer, version: str, fresh: bool | None) -> Any:
    row = read_row(envelope, payload)
    if isinstance(row, dict):
        return Answer(row, version, fresh)
    return refused_row(row)
