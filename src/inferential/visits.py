"""Clients within the server's own process: gateways and tools, on the same path as everyone but the socket.

They are clients like any other to tracking, scheduling and rights; only their frames are handed over instead of sent.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from inferential.client.handles import AsyncHandles, AsyncModel
from inferential.client.mailbox import Mailbox
from inferential.client.result import Result
from inferential.client.session import Frames
from inferential.proto.tensors import Buffer, whole
from inferential.transport.messages import Received

Receive = Callable[[Buffer, Buffer], None]
"""Takes envelope and payload of a response."""

# The transport's own begin with a zero byte too, but go on with a count, which never spells this; those that clients
# choose never begin with one.
_IDENTITY = b"\0visitor "


class Visits:
    """Who of the server's clients is in its process, by identity."""

    def __init__(self) -> None:
        self._receivers: dict[bytes, Receive] = {}
        self._numbers = itertools.count()

    @staticmethod
    def is_visitor(identity: bytes) -> bool:
        """Whether responses to that identity do not go to the socket."""
        return identity.startswith(_IDENTITY)

    def receiver(self, identity: bytes) -> Receive | None:
        """Who takes the responses to that identity; None where nobody does any more."""
        return self._receivers.get(identity)

    def enter(self, receive: Receive) -> bytes:
        """Notes a client; gives its identity."""
        identity = _IDENTITY + str(next(self._numbers)).encode()
        self._receivers[identity] = receive
        return identity

    def leave(self, identity: bytes) -> None:
        """Forgets a client; what still comes for it cannot be delivered."""
        self._receivers.pop(identity, None)

    def has_left(self, identity: bytes) -> bool:
        """Whether an identity is one that `enter` gave, and whose client is there no more."""
        return identity.startswith(_IDENTITY) and identity not in self._receivers


class InProcessConnection(AsyncHandles):
    """A client in the server's process; made by `Server.connect`, with the handles of `AsyncConnection`.

    Arrays of its results are views on what the model gave, and may not be writable.
    """

    def __init__(
        self, client_id: str | int, client_type: str, visits: Visits, take: Callable[[Received], None]
    ) -> None:
        super().__init__(client_id, client_type)
        self._take = take
        self._visits = visits
        self._identity: bytes | None = visits.enter(self._receive)

    def close(self) -> None:
        """Leaves the server; whoever waits in it gets a ConnectionError. Closing twice is fine."""
        if self._identity is None:
            return
        self._visits.leave(self._identity)
        self._identity = None
        self._wake_waiters()

    async def infer(self, model: AsyncModel, values: Mapping[str, Any], timeout_ms: float) -> Result | None:
        """As `AsyncModel.infer`, for values whose keys are not ours to choose."""
        return await self._infer(model._mailbox, values, {}, timeout_ms)

    def _post(self, mailbox: Mailbox, request_id: int, frames: Frames) -> None:
        assert self._identity is not None
        _, envelope, payload = frames
        self._take((self._identity, envelope, whole(payload), time.monotonic()))

    def _receive(self, envelope: Buffer, payload: Buffer) -> None:
        self._session.receive(envelope, payload, time.monotonic())
        self._wake_waiters()

    def _start(self) -> None:
        self._check_open()

    def _check_open(self) -> None:
        if self._identity is None:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")
