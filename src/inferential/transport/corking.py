"""Refusals that wait a moment for others, or for an answer, to leave in one write with them.

In an overload most of what is sent is refusals, and each write costs as much as all else that a refusal takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from inferential.proto.tensors import Buffer
from inferential.transport.connections import ClientConnection
from inferential.zmtp import ConnectionEnded
from inferential.zmtp.stream import JOIN_BELOW_BYTES

LATE_S = 0.01
"""How long refusals wait for an answer to go with."""


class Corks:
    """The connections with refusals that wait, which stand in `ClientConnection.corked`.

    Args:
        note_unsent: called after a write that was not taken whole.
        drop: ends a connection for a reason.
    """

    def __init__(
        self, note_unsent: Callable[[ClientConnection], None], drop: Callable[[ClientConnection, str], None]
    ) -> None:
        self._note_unsent = note_unsent
        self._drop = drop
        self._soon: list[ClientConnection] = []
        self._late: list[ClientConnection] = []

    def add(
        self, client: ClientConnection, envelopes: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, late: bool
    ) -> None:
        """Sends messages in the loop's next turn, or with the next answer or after `LATE_S`."""
        waiting = self._late if late else self._soon
        if not waiting:
            if late:
                loop.call_later(LATE_S, self._send_late)
            else:
                loop.call_soon(self._send_soon)
        if not client.corked or not late:
            waiting.append(client)
        client.corked += envelopes

    def send_with(self, client: ClientConnection, envelope: Buffer, payload: Buffer) -> None:
        """Sends an answer after what waits for its connection.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        messages = [(b"", refusal, b"") for refusal in client.corked]
        client.corked = []
        if len(payload) < JOIN_BELOW_BYTES:
            client.stream.send_together([*messages, (b"", envelope, payload)])
        else:
            client.stream.send_together(messages)
            client.stream.send((b"", envelope, payload))

    def send_all(self) -> None:
        """Sends all that waits."""
        self._send_soon()
        self._send_late()

    def _send_soon(self) -> None:
        clients, self._soon = self._soon, []
        self._send(clients)

    def _send_late(self) -> None:
        clients, self._late = self._late, []
        self._send(clients)

    def _send(self, clients: Sequence[ClientConnection]) -> None:
        for client in clients:
            envelopes, client.corked = client.corked, []
            if client.gone or not envelopes:
                continue
            try:
                client.stream.send_together([(b"", envelope, b"") for envelope in envelopes])
            except ConnectionEnded as error:
                self._drop(client, str(error))
                continue
            if client.stream.unsent:
                self._note_unsent(client)
