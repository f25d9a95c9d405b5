"""Connections to a server that are being made, several at once: the first one that stands is used.

A system asks a machine that does not answer again after 1, 2, 4, ... s. So a network that was away for long is found
again late by one attempt, and soon by a fresh one every fiftieth of a second. What a connection sends again after an
outage comes as late, wherefore a fresh connection may overtake one that stands. It never sleeps.

A server accepts few of them: the robot ends all others when the first one stands, and its system then answers what the
server's says of those that are under way by a reset, before they are complete.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket

from inferential.client.resolver import Address
from inferential.zmtp import tcp

_MOST, _PATIENT = 32, 4
"""Attempts at a time, and how many of them stay, for round trips of seconds; of the others the oldest gives way."""
_PATIENT_RETRIES, _RETRIES = 4, 1
"""How often the system asks again in one attempt, after 1, 2, 4, ... s: one that stays ends in 31 s, another in 3 s."""
_LEAST_EVERY_S, _MOST_EVERY_S = 0.02, 1.0
_EVERY_SHARE = 0.005  # of the outage
NEXT_ADDRESS_S = 0.25
"""How long an address has before the server's next one is tried beside it (RFC 8305, section 5), or the only one again:
a packet may be lost, which the system sends again after 1 s."""


def every_s(outage_s: float) -> float:
    """Returns the time between two attempts in seconds: robots of a server that is away for long ask less often."""
    return min(max(outage_s * _EVERY_SHARE, _LEAST_EVERY_S), _MOST_EVERY_S)


class Attempts:
    """Connections that are being made, the oldest first; their sockets are registered with the selector."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._sockets: dict[socket.socket, None] = {}
        self.is_listening: bool = False
        """Whether at the last `advance` one stood by which nothing was heard yet."""

    def __len__(self) -> int:
        return len(self._sockets)

    def begin(self, address: Address) -> None:
        """Begins a connection.

        Raises:
            OSError: the system refuses at once.
        """
        family, place = address
        attempt = socket.socket(family, socket.SOCK_STREAM)
        attempt.setblocking(False)
        tcp.prepare_attempt(attempt, _PATIENT_RETRIES if len(self._sockets) < _PATIENT else _RETRIES)
        code = attempt.connect_ex(place)
        if code not in (0, errno.EINPROGRESS):
            attempt.close()
            raise OSError(code, os.strerror(code))
        if len(self._sockets) == _MOST:
            self._end(list(self._sockets)[_PATIENT])
        self._sockets[attempt] = None
        self._selector.register(attempt, selectors.EVENT_WRITE)

    def again_s(self, outage_s: float) -> float:
        """Returns when to ask the same address again beside those that are being made, in seconds after this time."""
        return min(every_s(outage_s), NEXT_ADDRESS_S * (1 + len(self._sockets)))

    def advance(self, *, heard: bool = False) -> tuple[socket.socket | None, list[OSError]]:
        """Returns the first connection that stands, which is the caller's from now on, and why others failed.

        It stays registered with the selector. The others end with it.

        Args:
            heard: only one by which the server has said something: what stands may do so with a proxy.
        """
        errors = []
        self.is_listening = False
        for attempt in list(self._sockets):
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._end(attempt)
                errors.append(OSError(code, os.strerror(code)))
            elif _is_connected(attempt):
                said = _said(attempt) if heard else True
                if said is None:
                    self.is_listening = True
                    self._selector.modify(attempt, selectors.EVENT_READ)
                    continue
                if not said:
                    self._end(attempt)
                    continue
                del self._sockets[attempt]
                self.close()
                return attempt, errors
        return None, errors

    def close(self) -> None:
        """Ends all attempts."""
        for attempt in list(self._sockets):
            self._end(attempt)

    def discard(self, connected: socket.socket) -> None:
        """Ends a connection that `advance` returned."""
        self._selector.unregister(connected)
        connected.close()

    def _end(self, attempt: socket.socket) -> None:
        del self._sockets[attempt]
        self.discard(attempt)


def _is_connected(attempt: socket.socket) -> bool:
    try:
        attempt.getpeername()
    except OSError:
        return False
    return True


def _said(attempt: socket.socket) -> bool | None:
    """Returns whether the peer has said something; False: it has ended the connection, None: neither yet."""
    try:
        return bool(attempt.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return None
    except OSError:
        return False
