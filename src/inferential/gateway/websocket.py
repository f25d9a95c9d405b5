"""A websocket that bounds what it has received of a message which is not whole."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from inferential.gateway.receiving import RECEIVE_S, Receiving
from inferential.notices import Notices
from inferential.transport.descriptors import has_room
from inferential.transport.silent import SILENT

logger: logging.Logger = logging.getLogger("inferential.gateway.websocket")

_NOTED_FROM = 64 * 1024
"""Bytes of a message that is not whole; what is smaller is not worth to be noted."""
_WRONG = {
    CloseCode.PROTOCOL_ERROR: "a message is no websocket's",
    CloseCode.INVALID_DATA: "a text is not UTF-8",
    CloseCode.MESSAGE_TOO_BIG: "a message is too large",
}
_notices = Notices(logger)


class BoundedConnection(ServerConnection):
    """A connection that ends where a message takes long to arrive, or is the largest of too many that arrive.

    Args:
        received: of all connections of the gateway.
        arguments, options: as for `websockets`.
    """

    def __init__(self, received: Receiving, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._received = received
        self._overdue: asyncio.TimerHandle | None = None
        self._ended = False

    def refused(self, error: ConnectionClosed) -> bool:
        """Returns whether this end closed the connection for what came by it, which the log then says."""
        if self._ended:
            return True
        if error.sent is None or error.rcvd_then_sent or error.sent.code not in _WRONG:
            return False
        why = f"{_WRONG[CloseCode(error.sent.code)]}: {error.sent.reason}"
        _notices.say((self.remote_address[0], why[:80]), "%s: connection ended: %s", peer_of(self), why)
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes no connection where descriptors are needed for robots."""
        super().connection_made(transport)
        accepted = transport.get_extra_info("socket")
        if accepted is not None and not has_room(accepted.fileno()):
            text = "connections to %s:%d are closed: few file descriptors are left (ulimit -n)"
            _notices.say("scarce", text, *accepted.getsockname()[:2], level=logging.WARNING)
            self.transport.abort()
            return
        SILENT.note(self, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Notes how much there is of a message."""
        super().data_received(data)
        size = len(self.protocol.reader.buffer) + (_fragments_bytes(self.protocol) or 0)
        if size < _NOTED_FROM:
            self._whole()
            return
        if self._overdue is None:
            self._overdue = self.loop.call_later(RECEIVE_S, self._end, "a message has not arrived in time")
        self._received.note(self, size, self._make_room)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets what has arrived."""
        SILENT.forget(self)
        self._whole()
        super().connection_lost(exc)
        broke = getattr(self.protocol, "parser_exc", None)
        if broke is not None:  # in its traceback, which refers to it, is the last message
            broke.__traceback__ = None

    def _whole(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
            self._received.done(self)

    def _make_room(self) -> None:
        self._end("its message takes the room of others")

    def _end(self, why: str) -> None:
        self._ended = True
        _notices.say((self.remote_address[0], why), "%s: connection ended: %s", peer_of(self), why)
        self.transport.abort()


def peer_of(connection: ServerConnection) -> str:
    """Returns where the other end of a connection is, as HOST:PORT."""
    host, port = connection.remote_address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _fragments_bytes(protocol: Any) -> int | None:
    """Returns the bytes of a message in several frames so far; websockets 15 has another name for it."""
    size: int | None = getattr(protocol, "current_size", getattr(protocol, "cur_size", None))
    return size
