"""Messages of frames over a stream of bytes, between a server and a worker process.

No I/O: bytes go in and messages come out. The standard library alone: a worker whose environment lacks numpy reports
that with it.

    message    number of frames (4 bytes), length of each (4 bytes), the frames; little-endian

One without frames announces that another one may follow in a moment, to an end that else would sleep.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")
_U32 = struct.Struct("<I")
_JOIN_UP_TO_BYTES = 256 * 1024  # above it, sending buffers one by one is cheaper than joining them
_MAX_FRAMES = 1 << 16
_IN_PLACE_BYTES = 64 * 1024
_SHORT_BYTES = 4096  # copying it is cheaper than a view, and it keeps no large buffer
MAX_MESSAGE_BYTES = 4 * 1024**3 - 1
ANNOUNCEMENT = bytes(4)
"""A message without frames."""

Frame = bytes | memoryview

# The frames of a model's calls have the same lengths again and again: what follows from these is remembered.
_REMEMBERED = 1024
_REMEMBERED_FRAMES = 70  # of a call of 32 rows
_heads: dict[tuple[int, ...], bytes] = {}
_cuts: dict[bytes, struct.Struct] = {}


def write_message(frames: Sequence[bytes | bytearray | memoryview]) -> list[bytes | bytearray | memoryview]:
    """Returns a message as the buffers to send, in order."""
    sizes = tuple(map(len, frames))
    head = _heads.get(sizes)
    if head is None:
        head = struct.pack(f"<{len(sizes) + 1}I", len(sizes), *sizes)
        _remember(_heads, sizes, head, len(sizes))
    if sum(sizes) <= _JOIN_UP_TO_BYTES:
        return [b"".join((head, *frames))]
    return [head, *frames]


def _cut_of(head: bytes) -> struct.Struct:
    """Returns what cuts the rest of a message into frames."""
    (count,) = _U32.unpack_from(head)
    sizes = struct.unpack_from(f"<{count}I", head, 4)
    cut = struct.Struct("<" + "".join(f"{size}s" for size in sizes))
    _remember(_cuts, head, cut, count)
    return cut


def _remember(table: dict[_K, _V], key: _K, value: _V, frames: int) -> None:
    if frames <= _REMEMBERED_FRAMES:
        if len(table) >= _REMEMBERED:
            table.clear()
        table[key] = value


class MessageReader:
    """Cuts a stream into messages: `feed` what came, then `take` the messages that are whole.

    While `space` is not None, a large message is half there: the rest is read into that, and `filled` says how much
    came. Its frames are views on one buffer that nothing else has; those of other messages, and short ones, are bytes.
    """

    __slots__ = ("_data", "_need", "_usual", "_whole", "announced", "space", "usual_messages")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._need = 4  # bytes from which on there may be a message
        self._whole: bytearray | None = None
        self._usual: tuple[bytes, int, struct.Struct] | None = None  # head, size and cut of the message that came last
        self.space: memoryview | None = None
        self.announced: bool = False
        """Whether what came last announces a message, of which nothing is there yet; its reader resets this."""
        self.usual_messages: int = 0
        """How many messages came alone and were cut like the one before, which takes a quarter of the steps."""

    def feed(self, data: bytes) -> None:
        """Takes in bytes that came."""
        if self.space is not None:
            size = min(len(data), len(self.space))
            self.space[:size] = data[:size]
            self.filled(size)
            data = data[size:]
        if not self._data:
            self._data = data
        else:
            if not isinstance(self._data, bytearray):
                self._data = bytearray(self._data)
            self._data += data

    def filled(self, size: int) -> None:
        """Notes that the first `size` bytes of `space` were read."""
        assert self.space is not None
        self.space = self.space[size:] if size < len(self.space) else None

    def take(self) -> list[list[Frame]]:
        """Returns the frames of each whole message.

        Raises:
            ValueError: these are no messages.
        """
        usual, data = self._usual, self._data
        if usual is not None and len(data) == usual[1] and data.startswith(usual[0]) and self._whole is None:
            self._data, self._need = b"", 4
            self.usual_messages += 1
            return [list(usual[2].unpack_from(data, len(usual[0])))]
        if self._whole is None and data.startswith(ANNOUNCEMENT) and not data.startswith(ANNOUNCEMENT, 4):
            self._data = data[len(ANNOUNCEMENT) :]
            self.announced = not self._data
            return self.take()
        messages: list[list[Frame]] = []
        if self._whole is not None:
            if self.space is not None:
                return messages
            messages.append(_frames_of(self._whole))
            self._whole = None
        at = 0
        if len(data) < self._need:
            return messages
        self._need = 4
        while len(data) - at >= 4:
            (count,) = _U32.unpack_from(data, at)
            if not count:
                at += len(ANNOUNCEMENT)
                self.announced = at == len(data)
                continue
            if count > _MAX_FRAMES:
                raise ValueError(f"a message of {count} frames")
            begin = at + 4 + 4 * count
            if len(data) < begin:
                break
            head = bytes(data[at:begin])
            cut = _cuts.get(head) or _cut_of(head)
            end = begin + cut.size
            if len(data) < end:
                if end - at > MAX_MESSAGE_BYTES:
                    raise ValueError(f"a message of {end - at} bytes")
                if end - at >= _IN_PLACE_BYTES:
                    self._begin(data, at, end - at)
                    return messages
                self._need = end - at
                break
            messages.append(list(cut.unpack_from(data, begin)))
            self._usual = head, end - at, cut
            at = end
        self._data = data[at:] if at else data
        return messages

    def _begin(self, data: bytes | bytearray, at: int, size: int) -> None:
        """Makes room for a large message, of which the last bytes of the data are the beginning."""
        try:
            self._whole = bytearray(size)
        except MemoryError as error:
            raise ValueError(f"no memory for a message of {size} bytes") from error
        there = len(data) - at
        self._whole[:there] = memoryview(data)[at:]
        self.space = memoryview(self._whole)[there:]
        self._data = b""


def _frames_of(message: bytearray) -> list[Frame]:
    (count,) = _U32.unpack_from(message)
    sizes = struct.unpack_from(f"<{count}I", message, 4)
    begin = 4 + 4 * count
    frames: list[Frame] = []
    whole = memoryview(message)
    for size in sizes:
        frame = whole[begin : begin + size]
        frames.append(bytes(frame) if size <= _SHORT_BYTES else frame)
        begin += size
    return frames
