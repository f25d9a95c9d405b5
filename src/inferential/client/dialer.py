"""Makes a connection to one server: finds its addresses, and tries them in turn and again, side by side."""

from __future__ import annotations

import errno
import os
import selectors
import socket

from inferential.client.attempts import NEXT_ADDRESS_S, Attempts
from inferential.client.resolver import Address, AddressFinder

CONNECT_S = 15.0
"""How long a server's addresses are tried before its name is resolved anew: a network may take 10 s for a round trip,
and lose a packet."""
LISTEN_S = 5.0
"""How long connections that stand wait for the server's first word, where one before them has fallen silent."""
_LISTEN_AGAIN_S = 1.0  # to the next of them


class Dialer:
    """The connections to one server that are being made.

    Args:
        address: tcp://HOST:PORT or ipc://PATH.
        selector: sockets are registered with it.
    """

    def __init__(self, address: str, selector: selectors.BaseSelector) -> None:
        self.next_poll_at: float = 0.0
        """When to call `advance` without an event, in seconds of `time.monotonic()`."""
        self._attempts = Attempts(selector)
        self._finder = AddressFinder(address, selector)
        self._addresses: list[Address] = []  # of the server, not tried yet
        self._tried: list[Address] = []  # and those that were, which are tried again while none answers
        self._give_up_at = self._next_attempt_at = 0.0
        self._heard = False  # what stands is used only once the server is heard by it

    @property
    def is_racing(self) -> bool:
        """Whether connections are being made."""
        return bool(self._attempts)

    @property
    def is_busy(self) -> bool:
        """Whether connections are being made, or the name is being resolved."""
        return bool(self._attempts) or self._finder.is_busy

    @property
    def has_more(self) -> bool:
        """Whether an address of the server was not tried yet."""
        return bool(self._addresses)

    def advance(self, now: float, outage_s: float) -> socket.socket | None:
        """Begins, or goes on; returns the first connection that stands, which is the caller's from then on.

        Args:
            now: seconds of `time.monotonic()`.
            outage_s: for how long the server was not heard of.

        Raises:
            OSError: none could be made.
        """
        if not self._attempts and not self._begin(now, outage_s):
            return None
        if self._heard and now >= self._give_up_at:
            self.go_on(now, heard=False)
        connected, errors = self._attempts.advance(heard=self._heard)
        if connected is not None:
            return connected
        for error in errors:
            self._note_failure(error, now, outage_s)
        if now >= self._give_up_at:
            self._addresses.clear()  # all were tried
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if now >= self._next_attempt_at:
            self._try_next(now, outage_s)
        self.next_poll_at = min(self._give_up_at, self._next_attempt_at)
        return None

    def race(self, address: Address) -> None:
        """Begins one more connection to an address, beside one that stands.

        Raises:
            OSError: the system refuses at once.
        """
        self._tried = [address]
        self._attempts.begin(address)

    def first(self, *, heard: bool) -> tuple[socket.socket | None, int | None]:
        """Returns the first connection of the race that stands, see `Attempts.advance`; None while there is none.

        With it comes the number of the system's error by which the last one failed, None where none has.
        """
        connected, errors = self._attempts.advance(heard=heard)
        return connected, errors[-1].errno if errors else None

    def go_on(self, now: float, *, heard: bool) -> None:
        """Gives the connections that are being made all the time, as the one beside them was given up.

        Args:
            now: seconds of `time.monotonic()`.
            heard: see `Attempts.advance`; for some seconds, as a proxy may wait for what the robot says first.
        """
        self._heard = heard
        self._give_up_at = now + (LISTEN_S if heard else CONNECT_S)

    def forget_addresses(self) -> None:
        """Resolves the name anew next time: the server's address may have changed."""
        self._addresses.clear()

    def discard(self, connected: socket.socket) -> None:
        """Ends a connection that `advance` or `first` returned."""
        self._attempts.discard(connected)

    def close(self) -> None:
        """Ends what is going on; addresses that were not tried are kept."""
        self._finder.close()
        self._attempts.close()

    def _begin(self, now: float, outage_s: float) -> bool:
        """Begins a connection to the server's next address; returns False while its name is being resolved."""
        if not self._addresses:
            self._addresses = self._finder.find()
            if not self._addresses:
                self.next_poll_at = now + CONNECT_S  # the resolver wakes the selector
                return False
            self._tried.clear()
        self._give_up_at, self._heard = now + CONNECT_S, False
        self._try_next(now, outage_s)
        return True

    def _try_next(self, now: float, outage_s: float) -> None:
        """Begins a connection to the next address, beside those that are being made."""
        address = self._addresses.pop(0) if self._addresses else self._tried.pop(0)
        self._tried.append(address)
        again_s = _LISTEN_AGAIN_S if self._attempts.is_listening else self._attempts.again_s(outage_s)
        self._next_attempt_at = now + (NEXT_ADDRESS_S if self._addresses else again_s)
        try:
            self._attempts.begin(address)
        except OSError as error:
            self._note_failure(error, now, outage_s)

    def _note_failure(self, error: OSError, now: float, outage_s: float) -> None:
        """Goes on with the next address at once; raises the error where nothing else is being tried."""
        if not self._attempts:
            raise error
        if self._addresses:
            self._try_next(now, outage_s)
