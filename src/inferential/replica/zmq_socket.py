"""A ZeroMQ socket that an asyncio event loop watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq

from inferential.proto.tensors import Buffer

COPY_LIMIT_BYTES = 256 * 1024  # below it a copy is cheaper than keeping the memory alive until it is sent
_RECEIVE_AT_ONCE = 64


class WatchedSocket:
    """A ZeroMQ socket whose messages are handed over by the running event loop.

    Args:
        socket: which; it is closed with this.
        on_message: takes the frames of one message.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_message: Callable[[list[zmq.Frame]], None]) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._looks_again = False
        self._loop.add_reader(self._fd, self._on_readable)
        self._loop.call_soon(self._on_readable)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Hands a message to ZeroMQ; it does not wait.

        Raises:
            OSError: (zmq.ZMQError) no peer is there to take it, or too much waits already.
        """
        last = len(frames) - 1
        try:
            for number, frame in enumerate(frames):
                more = zmq.SNDMORE if number < last else 0
                self._socket.send(frame, zmq.NOBLOCK | more, copy=len(frame) < COPY_LIMIT_BYTES)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        finally:
            self._check_edge()

    def _check_edge(self) -> None:
        """ZeroMQ's descriptor signals edges, and sending may have consumed the one that something came."""
        if self._looks_again or self._socket.closed or not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            return
        self._looks_again = True
        self._loop.call_soon(self._on_readable)

    def drain(self) -> None:
        """Hands over all that has come."""
        while self._hand_over():
            pass

    def _on_readable(self) -> None:
        self._looks_again = False
        for _ in range(_RECEIVE_AT_ONCE):
            if not self._hand_over():
                return
        self._loop.call_soon(self._on_readable)

    def _hand_over(self) -> bool:
        if self._socket.closed:
            return False
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self._on_message(frames)
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Closes the socket; twice is fine."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close(linger=linger_ms)
