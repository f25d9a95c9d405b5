"""Reads the folder of the clients' keys again when it changes, and ends the connections of keys that were revoked."""

from __future__ import annotations

import asyncio
import contextlib

from inferential.transport.handshakes import HandshakeGuard
from inferential.transport.zmq_transport import ZmqTransport


class KeyWatch:
    """Watches the folder from `start` to `stop`.

    Args:
        guard: reads the keys.
        transport: has the connections.
        folder: with the keys; None: there are none.
    """

    def __init__(self, guard: HandshakeGuard, transport: ZmqTransport, folder: str | None) -> None:
        self._guard = guard
        self._transport = transport
        self._folder = folder if guard.client_keys is not None else None
        self._watching: asyncio.Task[None] | None = None

    @property
    def failures(self) -> int:
        """Handshakes that have failed since the server started."""
        return self._guard.failures

    def start(self) -> None:
        """Begins to watch, on the running event loop."""
        if self._folder is not None:
            from inferential.config.watcher import watch_folder

            self._watching = asyncio.create_task(watch_folder(self._folder, self.reload))

    def reload(self) -> None:
        """Reads the keys now."""
        if self._guard.reload():
            self._transport.drop_revoked()

    async def stop(self) -> None:
        """Ends watching."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
