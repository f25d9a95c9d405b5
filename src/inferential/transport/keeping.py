"""A ROUTER socket that keeps what it owes to a robot whose connection has ended, until it comes back (`returns`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from inferential.transport.connections import ClientConnection, is_well_formed
from inferential.transport.messages import Received
from inferential.transport.returns import KEPT_S, MAX_MESSAGES, Absence, KeptAnswer, Returns
from inferential.transport.router import RouterSocket
from inferential.zmtp import ConnectionEnded


class KeepingRouter(RouterSocket):
    """A bound ROUTER socket; a robot that connects again within the same life gets what is still owed to it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.inherited: list[Received] = []
        """Messages of connections that have ended, as if they had come by those that followed; the caller takes them
        out before it looks at what the others have sent."""
        self.on_inherited: Callable[[], None] | None = None
        """Called when there are any; None: nothing is kept."""
        self.on_lost: Callable[[KeptAnswer], None] | None = None
        """Called with each answer that was kept for a robot which did not come back."""
        self.spoken_for: dict[int, set[int]] = {}
        """By the number of a connection, the requests of former ones that have their ends, or will have them."""
        self.open_ids: Callable[[int], set[int]] = lambda number: set()
        """Returns the requests that wait or run of a connection, and of former ones of its robot."""
        self._returns = Returns()
        self._unread: dict[int, list[Received]] = {}  # of a connection that is being ended
        self._expiry: asyncio.TimerHandle | None = None
        self._acceptance.on_return = self._take_rest
        self._acceptance.on_registered = self._on_registered

    def sizes(self) -> dict[str, int]:
        return {**super().sizes(), **self._returns.sizes()}

    def is_away(self, number: int) -> bool:
        """Returns whether the robot of a connection that has ended may come back."""
        return self._returns.is_away(number)

    def keep_waiting(self, message: Received) -> None:
        """Keeps the message of a request that waited, until its robot, which is away, comes back."""
        self._returns.keep_waiting(message)

    def owe_nothing(self, number: int) -> None:
        """Notes that no request of a connection that has ended waits or runs."""
        self._returns.owe_nothing(number)

    def keep_answer(self, number: int, answer: KeptAnswer) -> bool:
        """Keeps an answer for a robot; returns False where it is not away."""
        return self._returns.keep_answer(number, answer)

    def place(self, number: int) -> int:
        """Returns the number of the connection that a robot has after one that ended; the same where it has none."""
        return self._returns.place(number)

    def find_ended(self, numbers: Iterable[int]) -> None:
        """Notices of connections with these numbers those that have ended by now, where robots may come back.

        After a time in which nothing was read, an answer would else be sent by a connection that its robot has given
        up.
        """
        for number in numbers:
            client = self._connections.by_number.get(number)
            if client is not None and client.life and client.stream.has_hung_up():
                self._take_rest(client)

    def _successor(self, number: int) -> ClientConnection | None:
        return self._connections.by_number.get(self._returns.place(number))

    def _take_rest(self, client: ClientConnection) -> None:
        """Ends a connection that its robot has given up, and keeps what it had sent."""
        if self.on_inherited is None:
            return  # it is asked by a PING, as any other
        messages: list[Received] = []
        now = time.monotonic()
        try:
            while len(messages) < MAX_MESSAGES and (frames := client.stream.receive()) is not None:
                if is_well_formed(frames):
                    messages.append((client.identity, frames[1], frames[2], now, client.number))
        except ConnectionEnded:
            pass
        self._unread[client.number] = messages
        self._connections.drop(client, "its robot has connected anew, or is about to")

    def _on_closed(self, client: ClientConnection) -> None:
        if client.life and self.on_inherited is not None and not self._closed and not client.rival:
            now = time.monotonic()
            self._give_up(self._returns.left(client.number, client.identity, client.life, now))
            for message in self._unread.pop(client.number, ()):
                self._returns.keep_unread(message)
            if self._expiry is None and self._loop is not None:
                self._expiry = self._loop.call_later(KEPT_S, self._expire)
        self.spoken_for.pop(client.number, None)
        super()._on_closed(client)

    def _on_registered(self, client: ClientConnection) -> None:
        owed, given_up = self._returns.came(client.number, client.identity, client.life)
        if given_up is not None:
            self._give_up([given_up])
        if owed is None:
            return
        for identity, envelope, payload, at, _ in (*owed.waiting, *owed.unread):
            self.inherited.append((identity, envelope, payload, at, client.number))
        self.spoken_for[client.number] = {answer.request_id for answer in owed.answers} | self.open_ids(client.number)
        for answer in owed.answers:
            try:
                self.post(client.number, answer.envelope, answer.payload)
            except OSError:
                self._lose(answer)
        self._tell_inherited()

    def _tell_inherited(self) -> None:
        if self.inherited and self.on_inherited is not None and self._loop is not None:
            self._loop.call_soon(self.on_inherited)

    def _expire(self) -> None:
        assert self._loop is not None
        self._expiry = None
        self._give_up(self._returns.expire(time.monotonic()))
        if len(self._returns):
            self._expiry = self._loop.call_later(KEPT_S / 4, self._expire)

    def _give_up(self, absences: list[Absence]) -> None:
        """Counts what was kept in vain: messages are refused as those of any connection that has ended."""
        for absence in absences:
            self.inherited += absence.unread
            for answer in absence.answers:
                self._lose(answer)
        self._tell_inherited()

    def _lose(self, answer: KeptAnswer) -> None:
        if self.on_lost is not None:
            self.on_lost(answer)

    def _stop_keeping(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._give_up(self._returns.expire(float("inf")))
