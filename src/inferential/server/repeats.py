"""Answers requests over HTTP whose very bytes were answered before, in the turn of the event loop in which they come.

Who probes a server asks the same over and over. The first probe goes the whole way: it is parsed, it is checked whether
its sender may read, and the application makes the answer and says how to make the next. That is up to 1 ms of code that
is not in the processor's caches; to look at the bytes, and to make the answer alone, is a tenth.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.responses import Response

LONGEST = 2048
"""Bytes of a request that is remembered, at most."""
MOST = 64
"""Requests that are remembered; of more the oldest are forgotten."""
AT_ONCE = 8192
"""Bytes of an answer that any new connection takes."""
_HEAD_END = b"\r\n\r\n"
_EXTENSION = "inferential.repeats"

Headers = Iterable[tuple[bytes, bytes]]
Make = Callable[[], "Response"]


@dataclass(frozen=True, slots=True)
class _Known:
    make: Make
    stays: bool  # the connection, for another request


@dataclass(frozen=True, slots=True)
class Again:
    """An answer.

    Attributes:
        data: all of it.
        stays: the connection does, for another request.
    """

    data: bytes
    stays: bool


def is_head(data: bytes) -> bool:
    """Returns whether these bytes can be one request without a body, and nothing else."""
    return data.endswith(_HEAD_END) and data.count(_HEAD_END) == 1


class Repeats:
    """What was asked and may be answered again, by its bytes.

    Attributes:
        answered: how often something was.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self.answered: int = 0

    def note(self, scope: MutableMapping[str, Any], data: bytes, *, stays: bool) -> None:
        """Notes in a scope of ASGI the bytes of its request, for `learn`.

        Args:
            scope: of the request.
            data: all of it; see `is_head`.
            stays: the connection does, for another request.
        """
        if len(data) <= LONGEST:
            scope.setdefault("extensions", {})[_EXTENSION] = data, stays

    def learn(self, scope: MutableMapping[str, Any], make: Make) -> None:
        """Has the same bytes answered by what this makes; where a token is asked for, they have it.

        Args:
            scope: of a request that is answered so.
            make: makes its response, with all headers.
        """
        data, stays = scope.get("extensions", {}).get(_EXTENSION, (b"", False))
        if not data or scope["method"] != "GET":
            return
        if len(self._known) >= MOST and data not in self._known:
            del self._known[next(iter(self._known))]
        self._known[data] = _Known(make, stays)

    def answer(self, data: bytes, headers: Headers, most: int | None = None) -> Again | None:
        """Returns the answer to a request; None where it is not known, cannot be made, or is longer than `most` bytes.

        Args:
            data: the request.
            headers: of any answer, as the date.
            most: see above.
        """
        known = self._known.get(data) if len(data) <= LONGEST else None
        if known is None:
            return None
        try:
            response = known.make()
        except Exception:  # the whole way fails too, and tells the client and the log
            return None
        lines = [b"HTTP/1.1 %d %s" % (response.status_code, HTTPStatus(response.status_code).phrase.encode())]
        lines += [b"%s: %s" % one for one in (*headers, *response.raw_headers)]
        if not known.stays:
            lines.append(b"connection: close")
        found = b"\r\n".join([*lines, b"", bytes(response.body)])
        if most is not None and len(found) > most:
            return None
        self.answered += 1
        return Again(found, known.stays)


class PromptSocket(socket.socket):
    """A socket that listens, and answers as it accepts where a request has come with its connection.

    asyncio takes four turns of its loop from a connection to its first request, each of which may be a slice of reading
    robots' messages. It takes `ConnectionAbortedError` as that of a client that has left meanwhile.

    Attributes:
        repeats: what it may answer; None: nothing.
        headers: returns those of any answer.
    """

    repeats: Repeats | None = None
    headers: Callable[[], Headers] = list

    def accept(self) -> tuple[socket.socket, Any]:
        """Accepts a connection that stays open.

        Raises:
            ConnectionAbortedError: one was answered, and is closed.
            OSError: none can be accepted.
        """
        accepted, place = super().accept()
        if self.repeats is not None and self._is_done(accepted, self.repeats):
            accepted.close()
            raise ConnectionAbortedError("answered")
        return accepted, place

    def _is_done(self, accepted: socket.socket, repeats: Repeats) -> bool:
        try:
            data = accepted.recv(LONGEST + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False  # nothing has come yet
        except OSError:
            return True  # its client has left
        found = repeats.answer(data, self.headers(), AT_ONCE)
        if found is None:
            return False
        try:
            accepted.recv(len(data))
            accepted.send(found.data, socket.MSG_DONTWAIT)
        except OSError:
            return True
        return not found.stays
