"""A stream to a worker process that the server's event loop reads and writes itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from inferential.proto.tensors import Buffer
from inferential.replica.stream import ANNOUNCEMENT, Frame, MessageReader, write_message

_READ_BYTES = 64 * 1024
_MAX_READ_BYTES = 1024 * 1024  # of a large message in one turn, so that others get theirs


class Stream:
    """Messages of frames over a connected socket.

    Args:
        connected: the socket; it is closed with this.
        on_message: takes the frames of a message.
        on_end: called at the end of the stream; with an error where what came is no message.

    Attributes:
        loop: reads and writes it. Before Python 3.12, asking for the running one takes a system call.
    """

    def __init__(
        self,
        connected: socket.socket,
        on_message: Callable[[list[Frame]], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._socket = connected
        self._fd = connected.fileno()
        self._on_message = on_message
        self._on_end = on_end
        self._messages = MessageReader()
        self._buffer = memoryview(bytearray(_READ_BYTES))  # new memory of this size costs more than a short call
        self._unsent: list[Buffer] = []
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        connected.setblocking(False)
        self.loop.add_reader(self._fd, self._on_readable)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Sends a message; what the system does not take now goes later."""
        buffers = write_message(frames)
        if self._unsent:
            self._unsent += buffers
        else:
            self._send(buffers)

    def announce(self) -> None:
        """Has the other end look for a message that may follow in a moment."""
        if not self._unsent:
            self._send((ANNOUNCEMENT,))

    def _send(self, buffers: Sequence[Buffer]) -> None:
        for at, buffer in enumerate(buffers):
            try:
                sent = self._socket.send(buffer)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the other end has gone, which reading will tell
            if sent < len(buffer):
                self._unsent = [memoryview(buffer)[sent:], *buffers[at + 1 :]]
                self.loop.add_writer(self._fd, self._on_writable)
                return

    def _on_writable(self) -> None:
        buffers, self._unsent = self._unsent, []
        self.loop.remove_writer(self._fd)
        self._send(buffers)

    def _on_readable(self) -> None:
        try:
            size = self._read()
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.loop.remove_reader(self._fd)
            self._on_end(None)
            return
        try:
            for frames in self._messages.take():
                self._on_message(frames)
        except (ValueError, IndexError) as error:
            self._on_end(error)

    def _read(self) -> int:
        """Reads once; returns how many bytes came."""
        messages = self._messages
        if messages.space is not None:
            size = self._socket.recv_into(messages.space[:_MAX_READ_BYTES])
            messages.filled(size)
            return size
        size = self._socket.recv_into(self._buffer)
        messages.feed(bytes(self._buffer[:size]))
        return size

    def drain(self) -> None:
        """Takes all that has come."""
        with contextlib.suppress(ValueError, IndexError, OSError):
            while self._read():
                for frames in self._messages.take():
                    self._on_message(frames)

    def finish(self) -> None:
        """Sends the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the socket."""
        self.loop.remove_reader(self._fd)
        self.loop.remove_writer(self._fd)
        self._socket.close()
