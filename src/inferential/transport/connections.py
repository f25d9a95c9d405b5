"""Connections of clients to the transport."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors

from inferential.errors import InferentialError
from inferential.zmtp import ConnectionEnded, Stream

logger = logging.getLogger("inferential.transport")

_MAX_DUPLICATE_IDS = 1024


class MalformedMessage(InferentialError):
    """A message that is not [identity, "", envelope, payload]."""

    def __init__(self, identity: bytes, reason: str) -> None:
        self.identity = identity
        self.reason = reason
        super().__init__(reason)


class ClientConnection:
    """One client's connection, in its handshake or after it."""

    __slots__ = ("events", "gone", "handshake_deadline", "host", "identity", "queued", "stream")

    def __init__(self, stream: Stream, handshake_deadline: float, host: str = "") -> None:
        self.stream: Stream = stream
        self.host: str = host  # "" of a local client
        self.handshake_deadline: float = handshake_deadline
        self.identity: bytes = b""  # until the handshake is done
        self.events: int = selectors.EVENT_READ
        self.queued: bool = False  # in the transport's `_ready`
        self.gone: bool = False  # closed; messages that were received before may remain to be returned


class DuplicateIds:
    """Logs the first time that a client connects while it is connected."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def note(self, identity: bytes) -> None:
        """Notes that a connection replaces another of the same identity."""
        if identity in self._seen:
            return
        if len(self._seen) < _MAX_DUPLICATE_IDS:
            self._seen.add(identity)
        logger.warning(
            "client %r connected again and replaces its former connection: it reconnected, or two robots have "
            "the same id; further replacements are not logged",
            identity.decode("utf-8", "replace"),
        )


async def send_buffered(client: ClientConnection) -> None:
    """Waits until a client's buffered messages are sent, or it disconnects."""
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    fd = client.stream.fileno()
    loop.add_writer(fd, writable.set)
    try:
        with contextlib.suppress(ConnectionEnded):
            while client.stream.unsent:
                writable.clear()
                await writable.wait()
                client.stream.flush()
    finally:
        loop.remove_writer(fd)
