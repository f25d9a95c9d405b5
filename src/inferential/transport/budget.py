"""Bounds the bytes that connections hold: frames that are half received, and answers that are not read.

It does no I/O and has no clock: the transport asks it before memory is allocated, and calls `stalled` now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from inferential.transport.connections import ClientConnection

TOTAL_BYTES = 1024 * 1024 * 1024
STALL_S = 10.0
"""A message of which fewer than `PROGRESS_BYTES` came in this time, and which is not whole, ends its connection."""
PROGRESS_BYTES = 64 * 1024


class ByteBudget:
    """The bytes that all connections may hold together, and each of them.

    Args:
        per_connection: for messages that are being received, and again for those that are being sent; None: no limit.
        total: of all connections.
    """

    def __init__(self, per_connection: int | None, total: int = TOTAL_BYTES) -> None:
        self._per_connection = per_connection
        self._total = total
        self._received: dict[ClientConnection, int] = {}
        self._progress: dict[ClientConnection, int] = {}  # bytes that had come when it was looked at last
        self._sending: dict[ClientConnection, int] = {}
        self.used: int = 0
        """Bytes that are reserved now."""
        self.end: Callable[[ClientConnection], None] | None = None
        """Ends a connection whose half-received message is in the way of smaller ones of others."""

    def reserve(self, client: ClientConnection) -> Callable[[int], bool]:
        """Returns what reserves so many bytes for a frame of a connection, and returns False where there is no room."""

        def reserve(size: int) -> bool:
            held = self._received.get(client, 0) + size
            while self.used + size > self._total and self._make_room(client, held):
                pass
            if self._exceeds(held, size):
                return False
            self._received[client] = held
            self.used += size
            return True

        return reserve

    def _make_room(self, client: ClientConnection, held: int) -> bool:
        """Ends the connection that has the most half received, where that is as much as `client` is to have; of several
        the one that began first. Who announces much and sends little must not keep others from sending."""
        others = (one for one in self._received if one is not client)
        largest = max(others, key=self._received.__getitem__, default=None)
        if largest is None or self._received[largest] < held or self.end is None:
            return False
        self.end(largest)
        return largest not in self._received

    def received(self, client: ClientConnection) -> None:
        """Frees what a connection has reserved, as its message is whole."""
        self.used -= self._received.pop(client, 0)
        self._progress.pop(client, None)

    def may_send(self, client: ClientConnection, size: int) -> bool:
        """Returns whether so many bytes more may wait until a connection reads them."""
        return not self._exceeds(client.stream.unsent_bytes + client.held_bytes + size, size)

    def sending(self, client: ClientConnection) -> None:
        """Notes how many bytes wait for a connection now."""
        size = 0 if client.gone else client.stream.unsent_bytes + client.held_bytes
        self.used += size - self._sending.get(client, 0)
        if size:
            self._sending[client] = size
        else:
            self._sending.pop(client, None)

    def unsent(self) -> int:
        """Returns how many messages wait until their connections read them."""
        return sum(client.stream.unsent for client in self._sending)

    def closed(self, client: ClientConnection) -> None:
        """Frees all that a connection holds."""
        self.received(client)
        self.used -= self._sending.pop(client, 0)

    def _exceeds(self, held: int, size: int) -> bool:
        if self.used + size > self._total:
            return True
        return self._per_connection is not None and held > self._per_connection

    def stalled(self) -> Iterable[ClientConnection]:
        """Returns the connections whose half-received messages have not come on since the last call.

        Between two frames, none of a message's bytes are missing that it has said to have, and the next frame is.
        """
        found = []
        for client, held in self._received.items():
            missing = client.stream.missing_bytes
            before, come = self._progress.get(client), held - missing
            if before is not None and come - before < min(PROGRESS_BYTES, max(missing, 1)) and not client.queued:
                found.append(client)
            self._progress[client] = come
        return found

    @property
    def receiving(self) -> bool:
        """Whether any message is half received."""
        return bool(self._received)
