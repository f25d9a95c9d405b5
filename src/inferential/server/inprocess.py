"""Clients in the server's own process: gateways and tools.

They pass through tracking, scheduling and client policies like any other client; only their frames are handed over
directly instead of through a socket.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from inferential.client.async_base import AsyncConnectionBase
from inferential.client.async_model import AsyncModel
from inferential.client.handle import ObservationHints
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
    """The receivers of the connected in-process clients, by the number of their connection, which is below 0.

    Attributes:
        on_closed: called with the number of a connection that has ended.
    """

    def __init__(self) -> None:
        self.on_closed: Callable[[int], None] = lambda number: None
        self._receivers: dict[int, Receive] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._receivers)

    def receiver(self, number: int) -> Receive | None:
        """Returns what takes the responses to a connection; None if its client has disconnected."""
        return self._receivers.get(number)

    def connected(self, identity: bytes) -> bool | None:
        """Returns whether an in-process client is connected; None for the identity of another client."""
        if not identity.startswith(_PREFIX):
            return None
        return -int(identity[len(_PREFIX) :]) in self._receivers

    def add(self, receive: Receive) -> int:
        """Registers a client and returns the number of its connection."""
        number = -next(self._numbers)
        self._receivers[number] = receive
        return number

    def remove(self, number: int) -> None:
        """Removes a client; its requests end, and responses to it can no longer be delivered."""
        del self._receivers[number]
        self.on_closed(number)


def identity_of(number: int) -> bytes:
    """Returns the identity of an in-process client, by the number of its connection."""
    return _PREFIX + str(-number).encode()


class InProcessConnection(AsyncConnectionBase):
    """A client in the server's process; made by `Server.connect`, with the handles of `AsyncConnection`.

    Arrays of its results are views on the arrays that the model returned, and may be read-only.
    """

    def __init__(
        self, client_id: str | int, client_type: str, clients: InProcessClients, submit: Callable[[Received], None]
    ) -> None:
        super().__init__(client_id, client_type)
        self._submit = submit
        self._clients = clients
        self._number: int | None = clients.add(self._receive)

    def close(self) -> None:
        """Disconnects; pending `get_result` and `infer` calls raise ConnectionError. Closing twice is allowed."""
        if self._number is None:
            return
        number, self._number = self._number, None
        self._clients.remove(number)
        self._wake_waiters()

    async def infer(self, model: AsyncModel, values: Mapping[str, Any], timeout_ms: float) -> Result | None:
        """Does what `AsyncModel.infer` does, for values whose keys may be the names of its own arguments."""
        return await self._infer(model._mailbox, {"observation": values}, {}, timeout_ms)

    def observe(
        self,
        model: AsyncModel,
        values: Mapping[str, Any],
        steps_remaining: int | None,
        captured_at: float | None = None,
    ) -> int:
        """Does what `AsyncModel.observe` does, for values whose keys may be the names of its own arguments."""
        times = {} if captured_at is None else {"captured_at": captured_at}
        hints: ObservationHints = {"steps_remaining": steps_remaining}
        return self._observe(model._mailbox, {"observation": values, **times}, hints, False)

    def _post(self, mailbox: Mailbox, request_id: int, frames: Frames) -> None:
        assert self._number is not None
        _, envelope, payload = frames
        self._submit((identity_of(self._number), envelope, whole(payload), time.monotonic(), self._number))

    def _take_back(self, request_ids: Sequence[int]) -> None:
        for _, envelope, _ in self._session.cancellations(request_ids):
            if self._number is None:
                return
            with suppress(ConnectionError):  # the server has stopped, and its requests with it
                self._submit((identity_of(self._number), envelope, b"", time.monotonic(), self._number))

    def _receive(self, envelope: Buffer, payload: Buffer) -> None:
        self._session.receive(envelope, payload, time.monotonic())
        self._wake_waiters()

    def _start(self) -> None:
        self._check_open()

    def _check_open(self) -> None:
        if self._number is None:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")
