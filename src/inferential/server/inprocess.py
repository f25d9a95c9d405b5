"""Clients in the server's own process: gateways and tools.

They pass through tracking, scheduling and client policies like any other client; only their frames are handed over
directly instead of through a socket.
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

# The transport's generated identities also begin with a zero byte, but continue with an 8-byte count, which never
# spells this prefix. Identities that clients choose never begin with a zero byte.
_PREFIX = b"\0inprocess "


class InProcessClients:
    """The receivers of the connected in-process clients, by identity."""

    def __init__(self) -> None:
        self._receivers: dict[bytes, Receive] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._receivers)

    @staticmethod
    def owns(identity: bytes) -> bool:
        """Returns whether an identity belongs to an in-process client, connected or not."""
        return identity.startswith(_PREFIX)

    def receiver(self, identity: bytes) -> Receive | None:
        """Returns what takes the responses to an identity; None if its client has disconnected."""
        return self._receivers.get(identity)

    def add(self, receive: Receive) -> bytes:
        """Registers a client and returns its identity."""
        identity = _PREFIX + str(next(self._numbers)).encode()
        self._receivers[identity] = receive
        return identity

    def remove(self, identity: bytes) -> None:
        """Removes a client; responses to it can no longer be delivered."""
        self._receivers.pop(identity, None)

    def has_disconnected(self, identity: bytes) -> bool:
        """Returns whether an identity was given out by `add` and its client has disconnected since."""
        return identity.startswith(_PREFIX) and identity not in self._receivers


class InProcessConnection(AsyncHandles):
    """A client in the server's process; made by `Server.connect`, with the handles of `AsyncConnection`.

    Arrays of its results are views on the arrays that the model returned, and may be read-only.
    """

    def __init__(
        self, client_id: str | int, client_type: str, clients: InProcessClients, submit: Callable[[Received], None]
    ) -> None:
        super().__init__(client_id, client_type)
        self._submit = submit
        self._clients = clients
        self._identity: bytes | None = clients.add(self._receive)

    def close(self) -> None:
        """Disconnects; pending `get_result` and `infer` calls raise ConnectionError. Closing twice is allowed."""
        if self._identity is None:
            return
        self._clients.remove(self._identity)
        self._identity = None
        self._wake_waiters()

    async def infer(self, model: AsyncModel, values: Mapping[str, Any], timeout_ms: float) -> Result | None:
        """Does what `AsyncModel.infer` does, for values whose keys may be the names of its own arguments."""
        return await self._infer(model._mailbox, values, {}, timeout_ms)

    def observe(self, model: AsyncModel, values: Mapping[str, Any], steps_remaining: int | None) -> int:
        """Does what `AsyncModel.observe` does, for values whose keys may be the names of its own arguments."""
        return self._observe(model._mailbox, values, {"steps_remaining": steps_remaining}, False)

    def _post(self, mailbox: Mailbox, request_id: int, frames: Frames) -> None:
        assert self._identity is not None
        _, envelope, payload = frames
        self._submit((self._identity, envelope, whole(payload), time.monotonic()))

    def _receive(self, envelope: Buffer, payload: Buffer) -> None:
        self._session.receive(envelope, payload, time.monotonic())
        self._wake_waiters()

    def _start(self) -> None:
        self._check_open()

    def _check_open(self) -> None:
        if self._identity is None:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")
