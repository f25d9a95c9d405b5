"""Sends messages by the numbers of connections, never by identities, and without waiting."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

from inferential.transport.budget import ByteBudget
from inferential.transport.connections import ClientConnection, Connections
from inferential.transport.corking import Corks
from inferential.zmtp import ConnectionEnded
from inferential.zmtp.protocol import Buffer


class Sender:
    """The sending half of a ROUTER socket.

    Args:
        send_hwm: how many messages may wait for a client.
        budget: how many bytes may.
    """

    def __init__(self, send_hwm: int, budget: ByteBudget) -> None:
        self._send_hwm = send_hwm
        self._budget = budget
        # One descriptor for the event loop, however many clients are connected: all messages that have arrived are read
        # in one turn of the loop, and can go into one batch.
        self._connections = Connections()
        self._corks = Corks(lambda client: self._note_unsent(client), self._connections.drop)
        self._loop: asyncio.AbstractEventLoop | None = None

    def has_client(self, identity: bytes) -> bool:
        """Returns whether a client with this identity is connected."""
        return identity in self._connections.by_identity

    def connection_of(self, identity: bytes) -> int:
        """Returns the number of the connection that has an identity now.

        Raises:
            OSError: there is none (EHOSTUNREACH).
        """
        client = self._connections.by_identity.get(identity)
        if client is None:
            raise OSError(errno.EHOSTUNREACH, "the client is not connected")
        return client.number

    def post(self, number: int, envelope: Buffer, payload: Buffer) -> None:
        """Sends a message by a connection, without waiting; what the system does not take at once is buffered.

        Raises:
            OSError: the connection has ended (EHOSTUNREACH), or its client does not read and `send_hwm` messages are
                buffered for it (EAGAIN).
        """
        client = self._writable(number, len(payload))
        try:
            if client.corked:
                self._corks.send_with(client, envelope, payload)
            else:
                client.stream.send((b"", envelope, payload))
        except ConnectionEnded as error:
            self._connections.drop(client, str(error))
            raise OSError(errno.EHOSTUNREACH, f"the client disconnected: {error}") from error
        if client.stream.unsent:
            self._note_unsent(client)

    def cork(self, number: int, envelopes: Sequence[bytes], *, late: bool = False) -> None:
        """Sends messages without payload in the event loop's next turn, in one write with others for the connection.

        Args:
            number: of the connection.
            envelopes: of the messages.
            late: they go with the next answer, or after moments: in an overload that halves the number of writes.

        Raises:
            OSError: as `post`, as far as it is known by now.
        """
        client = self._writable(number, sum(map(len, envelopes)))
        self._corks.add(client, envelopes, self._loop or asyncio.get_running_loop(), late=late)

    def _note_unsent(self, client: ClientConnection) -> None:
        self._connections.update_events(client)
        self._budget.sending(client)

    def _successor(self, number: int) -> ClientConnection | None:
        """Returns the connection that takes the place of one that has ended; None: there is none."""
        return None

    def _writable(self, number: int, size: int) -> ClientConnection:
        client = self._connections.by_number.get(number) or self._successor(number)
        if client is None:
            raise OSError(errno.EHOSTUNREACH, "the client is not connected")
        if not (unsent := client.stream.unsent):
            return client
        if unsent >= self._send_hwm:
            raise OSError(errno.EAGAIN, f"the client does not read: {self._send_hwm} messages are buffered for it")
        if not self._budget.may_send(client, size):
            raise OSError(errno.EAGAIN, f"the client does not read: {client.stream.unsent_bytes} bytes wait for it")
        return client
