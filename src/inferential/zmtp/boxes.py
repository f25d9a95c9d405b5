"""Messages of a connection with keys: each frame and each command travels in a MESSAGE of its own, encrypted.

    frame of ZMTP: flags 0, size | \\7MESSAGE | nonce, 8 bytes | authenticator, 16 | flags inside, 1 | body

What `reader.Reader` and `protocol.message` are to a connection without keys, these are to one with them. A body is
copied once on its way out and never on its way in: boxes are sealed and opened where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from inferential.zmtp.curve import COMMAND, MORE, OVERHEAD_BYTES, Session, pointer_to
from inferential.zmtp.protocol import HEAD_BYTES, HEAD_FRAMES, Buffer, Discarded, Frame, ProtocolError
from inferential.zmtp.wire import FrameReader

_LONG = 2  # flag of a frame of ZMTP
_IN_PLACE_BYTES = 2 * 1024
"""A box of at least this size that is not complete gets a buffer of its own, which the rest is read into."""
_PLAIN_AT = OVERHEAD_BYTES - 1  # in a box: flags and body
_ALIGNMENT = 16
_BEFORE = -OVERHEAD_BYTES % _ALIGNMENT
"""Bytes before a large box, so that the body in it is aligned as an array wants it."""
_MAX_DISCARDED = 64
_SMALL_BYTES = 16 * 1024
"""Below it, memory that is set to zero first costs less than an array."""
_RETURNED_BYTES = 128 * 1024
"""glibc gives freed blocks of at least this size back to the kernel, and new ones are new pages, each a page fault."""
_LARGEST_KEPT_BYTES = 31 * 1024 * 1024


@cache
def _keep_freed_memory() -> None:
    """Has glibc reuse large blocks from here on, by freeing the largest one that raises its threshold.

    Encrypting into new pages takes several times as long as into those that were used before (mallopt(3),
    M_MMAP_THRESHOLD). None of the pages of this block is touched.
    """
    np.empty(_LARGEST_KEPT_BYTES, np.uint8)


class BoxReader:
    """Splits received bytes into boxes and opens them; used as `reader.Reader`.

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
        self._pointer = pointer_to(b"")
        self._at = 0
        self._frames: list[Buffer] = []
        self._dropped = 0
        self._overlong = False
        self._large: memoryview | None = None
        self._opened = bytearray(_IN_PLACE_BYTES)  # the last small box
        self._opened_at = pointer_to(self._opened)
        self.reserve: Callable[[int], bool] | None = None
        self.space: memoryview | None = None
        self.buffered: bool = False

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        self._data = self._data[self._at :] + data if self.buffered else data
        self._pointer = pointer_to(self._data)
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
        while True:
            large = self._large
            if large is not None:
                if self.space is not None:
                    return None
                self._large = None
                pointer = pointer_to(large)
                self._session.open_box(large, pointer, 0, len(large), pointer + _PLAIN_AT)
                flags, body = large[_PLAIN_AT], large[OVERHEAD_BYTES:]
                is_head = len(self._frames) < HEAD_FRAMES and len(body) <= HEAD_BYTES
                frame: Buffer = bytes(body) if is_head or flags & COMMAND else body
            else:
                size = self._complete()
                if size == 0:
                    return None
                start = self._at - size
                self._session.open_box(self._data, self._pointer, start, size, self._opened_at)
                opened = self._opened
                flags, frame = opened[0], opened[1 : size - _PLAIN_AT]
                if len(self._frames) < HEAD_FRAMES or flags & COMMAND:
                    frame = bytes(frame)
            if flags > MORE:
                if flags != COMMAND:
                    raise ProtocolError(f"frame with invalid flags {flags:#04x} in its box")
                assert isinstance(frame, bytes)
                return frame
            if len(self._frames) < self._max_frames:
                self._frames.append(frame)
            else:
                self._overlong = True
                self._dropped += 1
            if not flags:
                frames, self._frames = self._frames, []
                overlong, self._overlong = self._overlong, False
                return Discarded.MESSAGE if overlong else frames
            if self._dropped >= _MAX_DISCARDED:
                return Discarded.PART

    def abandon(self) -> None:
        """Frees a large box that is half received, as `reader.Reader.abandon` does."""
        self.reserve = None
        if self.space is not None:
            self.space = self._large = None
            self._frames = []

    def burst(self) -> list[tuple[bytes, Buffer, int, int]]:
        """Returns nothing: each message is in a box of its own."""
        return []

    def _complete(self) -> int:
        """Returns the size of the next box and moves to its end; 0 where it is not complete."""
        data, at, end = self._data, self._at, len(self._data)
        start = at + 2
        if start > end:
            return 0
        flags, size = data[at], data[at + 1]
        if flags:
            if flags != _LONG:
                raise ProtocolError(f"frame with flags {flags:#04x} outside of a box")
            start = at + 9
            if start > end:
                return 0
            size = int.from_bytes(data[at + 1 : start], "big")
        if size < OVERHEAD_BYTES:
            raise ProtocolError(f"frame of {size} bytes, too few for a box")
        if self._max_box_bytes is not None and size > self._max_box_bytes:
            allowed = self._max_box_bytes - OVERHEAD_BYTES
            raise ProtocolError(f"frame of {size - OVERHEAD_BYTES} bytes; at most {allowed} are allowed")
        stop = start + size
        if stop <= end:
            self._at, self.buffered = stop, stop < end
            if size > len(self._opened):
                self._opened = bytearray(size)
                self._opened_at = pointer_to(self._opened)
            return size
        if size >= _IN_PLACE_BYTES:
            self._begin(size, memoryview(data)[start:])
            self._at, self.buffered = end, False
        return 0

    def _begin(self, size: int, there: memoryview) -> None:
        if self.reserve is not None and not self.reserve(size):
            raise ProtocolError(f"no room for a frame of {size} bytes beside what connections hold already")
        if size >= _RETURNED_BYTES:
            _keep_freed_memory()
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
        if room >= _RETURNED_BYTES:
            _keep_freed_memory()
        pointer, seal = pointer_to(out), self._session.seal_frame
        at, last = 0, len(frames) - 1
        for number, frame in enumerate(frames):
            at = seal(out, pointer, at, MORE if number < last else 0, frame, sizes[number])
        return [out[:at]]

    def command(self, body: bytes) -> bytes:
        """Returns a command as bytes to send."""
        out = bytearray(9 + OVERHEAD_BYTES + len(body))
        return bytes(out[: self._session.seal_frame(memoryview(out), pointer_to(out), 0, COMMAND, body, len(body))])
