"""Messages of a connection with keys: each frame and each command travels in a MESSAGE of its own, encrypted.

    frame of ZMTP: flags 0, size | \\7MESSAGE | nonce, 8 bytes | authenticator, 16 | flags inside, 1 | body

What `protocol.Reader` and `protocol.message` are to a connection without keys, these are to one with them. A body is
copied once on its way out and never on its way in: boxes are sealed and opened where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inferential.zmtp.curve import COMMAND, MORE, OVERHEAD_BYTES, Session
from inferential.zmtp.protocol import HEAD_FRAMES, Buffer, Discarded, Frame, ProtocolError
from inferential.zmtp.wire import FrameReader

_LONG = 2  # flag of a frame of ZMTP
_SHORT_BYTES = 255
_IN_PLACE_BYTES = 2 * 1024
"""A box of at least this size that is not complete gets a buffer of its own, which the rest is read into."""
_ALIGNMENT = 16
_BEFORE = -OVERHEAD_BYTES % _ALIGNMENT
"""Bytes before a large box, so that the body in it is aligned as an array wants it."""
_MAX_DISCARDED = 64
_SMALL_BYTES = 16 * 1024
"""Below it, memory that is set to zero first costs less than an array."""


class BoxReader:
    """Splits received bytes into boxes and opens them; used as `protocol.Reader`.

    Args:
        session: opens the boxes.
        max_frame_bytes: a frame above it is an error, before memory is allocated; None: no limit.
        max_frames: frames of a message; a message with more is discarded, and `next` returns `Discarded`.
    """

    def __init__(self, session: Session, max_frame_bytes: int | None, max_frames: int) -> None:
        self._session = session
        self._max_box_bytes = None if max_frame_bytes is None else max_frame_bytes + OVERHEAD_BYTES
        self._max_frames = max_frames
        self._data = b""
        self._at = 0
        self._frames: list[Buffer] = []
        self._dropped = 0
        self._overlong = False
        self._large: memoryview | None = None
        self.space: memoryview | None = None
        self.buffered = False

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        self._data = self._data[self._at :] + data if self.buffered else data
        self._at = 0
        self.buffered = bool(self._data)

    def filled(self, size: int) -> None:
        """Notes that the first `size` bytes of `space` were read."""
        assert self.space is not None
        self.space = self.space[size:] if size < len(self.space) else None

    def next(self) -> list[Buffer] | bytes | Discarded | None:
        """Returns the next message as its frames, the next command as bytes, or None where neither is complete.

        Raises:
            ProtocolError: the bytes are no box, one that is too large, or one that cannot be opened.
        """
        self._dropped = 0
        while (box := self._box()) is not None:
            flags, body = self._session.open_in_place(box)
            if flags & ~(MORE | COMMAND):
                raise ProtocolError(f"frame with invalid flags {flags:#04x} in its box")
            if flags & COMMAND:
                return bytes(body)
            found = self._take(body, large=len(box) >= _IN_PLACE_BYTES, more=bool(flags & MORE))
            if found is not None:
                return found
        return None

    def _take(self, body: memoryview, *, large: bool, more: bool) -> list[Buffer] | Discarded | None:
        """Adds a frame to the message; returns the message if it is the last."""
        if len(self._frames) < HEAD_FRAMES:
            self._frames.append(bytes(body))
        elif len(self._frames) < self._max_frames:
            self._frames.append(body if large else bytearray(body))
        else:
            self._overlong = True
            self._dropped += 1
        if more:
            return Discarded.PART if self._dropped >= _MAX_DISCARDED else None
        frames, self._frames = self._frames, []
        overlong, self._overlong = self._overlong, False
        return Discarded.MESSAGE if overlong else frames

    def _box(self) -> memoryview | None:
        """Returns the next box, None where it is not complete."""
        if self.space is not None:
            return None
        if self._large is not None:
            box, self._large = self._large, None
            return box
        data, at, end = self._data, self._at, len(self._data)
        start = at + 2
        if start > end:
            return None
        flags, size = data[at], data[at + 1]
        if flags & ~_LONG:
            raise ProtocolError(f"frame with flags {flags:#04x} outside of a box")
        if flags & _LONG:
            start = at + 9
            if start > end:
                return None
            size = int.from_bytes(data[at + 1 : start])
        if size < OVERHEAD_BYTES:
            raise ProtocolError(f"frame of {size} bytes, too few for a box")
        if self._max_box_bytes is not None and size > self._max_box_bytes:
            allowed = self._max_box_bytes - OVERHEAD_BYTES
            raise ProtocolError(f"frame of {size - OVERHEAD_BYTES} bytes; at most {allowed} are allowed")
        stop = start + size
        if stop <= end:
            self._at, self.buffered = stop, stop < end
            return memoryview(bytearray(memoryview(data)[start:stop]))
        if size >= _IN_PLACE_BYTES:
            self._begin(size, memoryview(data)[start:])
            self._at, self.buffered = end, False
        return None

    def _begin(self, size: int, there: memoryview) -> None:
        try:
            self._large = np.empty(_BEFORE + size, np.uint8).data[_BEFORE:]
        except (MemoryError, ValueError) as error:
            raise ProtocolError(f"no memory for a frame of {size} bytes") from error
        self._large[: len(there)] = there
        self.space = self._large[len(there) :]


class BoxWire:
    """Both directions of a connection with keys.

    Args:
        session: seals and opens the boxes.
        max_frame_bytes, max_frames: limits, see `BoxReader`.
    """

    def __init__(self, session: Session, max_frame_bytes: int | None, max_frames: int) -> None:
        self._session = session
        self.reader: FrameReader = BoxReader(session, max_frame_bytes, max_frames)

    def message(self, frames: Sequence[Frame], join_below: int) -> list[Buffer]:
        """Returns a message as one buffer to send; it is copied into that anyway, whatever `join_below` says."""
        sizes = [sum(map(len, frame)) if isinstance(frame, list) else len(frame) for frame in frames]
        room = sum(sizes) + len(frames) * (9 + OVERHEAD_BYTES)
        out = memoryview(bytearray(room)) if room < _SMALL_BYTES else np.empty(room, np.uint8).data
        at, last = 0, len(frames) - 1
        for number, frame in enumerate(frames):
            at = self._seal(out, at, MORE if number < last else 0, frame, sizes[number])
        return [out[:at]]

    def command(self, body: bytes) -> bytes:
        """Returns a command as bytes to send."""
        out = bytearray(9 + OVERHEAD_BYTES + len(body))
        return bytes(out[: self._seal(memoryview(out), 0, COMMAND, body, len(body))])

    def _seal(self, out: memoryview, at: int, flags: int, frame: Frame, size: int) -> int:
        """Writes a frame in its box at a place; returns where it ends."""
        size += OVERHEAD_BYTES
        if size <= _SHORT_BYTES:
            start = at + 2
            out[at:start] = bytes((0, size))
        else:
            start = at + 9
            out[at:start] = bytes((_LONG,)) + size.to_bytes(8)
        place = start + OVERHEAD_BYTES
        for piece in frame if isinstance(frame, list) else (frame,):
            end = place + len(piece)
            out[place:end] = piece
            place = end
        self._session.seal_in_place(out[start:place], flags)
        return place
