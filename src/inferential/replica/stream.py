"""Messages of frames over a stream of bytes, between a server and a worker process.

No I/O: bytes go in and messages come out. The standard library alone: a worker whose environment lacks numpy reports
that with it.

    message    number of frames (4 bytes), length of each (4 bytes), the frames; little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_U32 = struct.Struct("<I")
_JOIN_UP_TO_BYTES = 256 * 1024  # above it, sending buffers one by one is cheaper than joining them
_MAX_FRAMES = 1 << 16


def write_message(frames: Sequence[bytes | bytearray | memoryview]) -> list[bytes | bytearray | memoryview]:
    """Returns a message as the buffers to send, in order."""
    sizes = [len(frame) for frame in frames]
    head = struct.pack(f"<{len(sizes) + 1}I", len(sizes), *sizes)
    if sum(sizes) <= _JOIN_UP_TO_BYTES:
        return [b"".join((head, *frames))]
    return [head, *frames]


class MessageReader:
    """Cuts a stream into messages: `feed` what came, then `take` the messages that are whole."""

    __slots__ = ("_data", "_need")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._need = 4  # bytes from which on there may be a message

    def feed(self, data: bytes) -> None:
        """Takes in bytes that came."""
        if not self._data:
            self._data = data
        else:
            if not isinstance(self._data, bytearray):
                self._data = bytearray(self._data)
            self._data += data

    def take(self) -> list[list[bytes]]:
        """Returns the frames of each whole message.

        Raises:
            ValueError: these are no messages.
        """
        at = 0
        data = self._data
        messages: list[list[bytes]] = []
        if len(data) < self._need:
            return messages
        self._need = 4
        while len(data) - at >= 4:
            (count,) = _U32.unpack_from(data, at)
            if not 0 < count <= _MAX_FRAMES:
                raise ValueError(f"a message of {count} frames")
            begin = at + 4 + 4 * count
            if len(data) < begin:
                break
            sizes = struct.unpack_from(f"<{count}I", data, at + 4)
            end = begin + sum(sizes)
            if len(data) < end:
                self._need = end - at
                break
            frames = []
            for size in sizes:
                frames.append(bytes(data[begin : begin + size]))
                begin += size
            at = end
            messages.append(frames)
        self._data = data[at:] if at else data
        return messages
