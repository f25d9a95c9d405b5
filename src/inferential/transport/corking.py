"""Refusals that wait a moment for others, or for an answer, to leave in one write with them.

In an overload most of what is sent is refusals, and each write costs as much as all else that a refusal takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import takewhile

from inferential.proto.tensors import Buffer
from inferential.transport.connections import ClientConnection
from inferential.zmtp import ConnectionEnded
from inferential.zmtp.stream import JOIN_BELOW_BYTES

LATE_S = 0.01
"""How long refusals wait for an answer to go with."""
LATE_EACH_S, LATEST_S = 0.0005, 0.5
"""For each connection whose refusals wait, how much longer they may, and the most: of many robots each gets its next
answer later, and one write for it and its refusals in place of two is what makes that sooner."""
_MOST_CORKED = 64  # refusals of one connection, which wait no longer then
_EARLY_S = 1e-3  # that a refusal may leave before its time, as timers are not exact


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
        self._late: dict[ClientConnection, float] = {}  # since when in the loop's time, longest first
        self._timed = False  # a timer is set for those

    def add(
        self, client: ClientConnection, envelopes: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, late: bool
    ) -> None:
        """Sends messages in the loop's next turn, or with the next answer or after `LATE_S`."""
        if not late or len(client.corked) >= _MOST_CORKED:
            if not self._soon:
                loop.call_soon(self._send_soon)
            self._soon.append(client)
        elif not client.corked:
            self._late[client] = loop.time()
            if not self._timed:
                self._timed = True
                loop.call_later(LATE_S, self._send_late, loop)
        client.corked += envelopes

    def send_with(self, client: ClientConnection, envelope: Buffer, payload: Buffer) -> None:
        """Sends an answer after what waits for its connection.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        refusals, client.corked = client.corked, []
        self._late.pop(client, None)
        if len(payload) < JOIN_BELOW_BYTES:
            client.stream.send_together(refusals, (b"", envelope, payload))
        else:
            client.stream.send_together(refusals)
            client.stream.send((b"", envelope, payload))

    def send_all(self) -> None:
        """Sends all that waits."""
        self._send_soon()
        self._send(list(self._late))

    def _send_soon(self) -> None:
        clients, self._soon = self._soon, []
        self._send(clients)

    def _send_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sends what has waited for long enough, and sets the timer for the rest."""
        now = loop.time()
        wait_s = max(LATE_S, min(LATE_EACH_S * len(self._late), LATEST_S))
        since = now - wait_s + _EARLY_S
        self._send([client for client, _ in takewhile(lambda one: one[1] <= since, self._late.items())])
        self._timed = bool(self._late)
        if self._late:
            oldest = next(iter(self._late.values()))
            loop.call_at(max(oldest + wait_s, now + LATE_S), self._send_late, loop)

    def _send(self, clients: Sequence[ClientConnection]) -> None:
        for client in clients:
            envelopes, client.corked = client.corked, []
            self._late.pop(client, None)
            if client.gone or not envelopes:
                continue
            try:
                client.stream.send_together(envelopes)
            except ConnectionEnded as error:
                self._drop(client, str(error))
                continue
            if client.stream.unsent:
                self._note_unsent(client)
