"""Splits the bytes of a ZMTP connection into messages and commands; sans-I/O, as `zmtp.protocol`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from inferential.zmtp.protocol import (
    COMMAND,
    HEAD_BYTES,
    HEAD_FRAMES,
    LONG,
    MORE,
    SHORT_BYTES,
    Buffer,
    Discarded,
    ProtocolError,
)

_IN_PLACE_BYTES = 2 * 1024
"""A frame of at least this size that is not complete gets a buffer of its own, which the rest is read into."""
_MAX_COMMAND_BYTES = 1024
_COMMON_START = bytes((MORE, 0, MORE))  # an empty frame, and a short one after it
_COMMON_HEADS_BYTES = 4  # of the heads of these two
_COMMON_BYTES = 6  # with the head of the third
_NONE_USUAL = -1, b"", 0, b""
_MAX_DISCARDED = 64
"""Frames of an overlong message that are discarded before the caller gets a turn for other connections."""

Allocate = Callable[[int], memoryview | None]


class Reader:
    """Splits a stream of bytes into messages and commands.

    Received bytes are passed to `feed`, or, while `space` is not None, read into that; `next` returns what is complete.

    Args:
        max_frame_bytes: a message frame above it is an error; None: no limit.
        max_frames: frames of a message; a message with more is discarded, and `next` returns `Discarded`.
        allocate: returns memory for a large frame, or None: new memory.
    """

    def __init__(self, max_frame_bytes: int | None, max_frames: int, allocate: Allocate | None = None) -> None:
        self._allocate = allocate
        self._max_frame_bytes = max_frame_bytes
        self._max_frames = max_frames
        self._common_fits = max_frames > HEAD_FRAMES and (max_frame_bytes is None or max_frame_bytes >= SHORT_BYTES)
        self._data = b""
        self._at = 0
        self._frames: list[Buffer] = []
        self._overlong = False
        # Of a message that came alone: its size, its first two heads, where the third is, and that.
        self._usual: tuple[int, bytes, int, bytes] = _NONE_USUAL
        self._body: memoryview | None = None  # a large frame, and its flags
        self._body_flags = 0
        self.reserve: Callable[[int], bool] | None = None
        """Asked before memory for a large frame is allocated; where it returns False, the frame is an error."""
        self.space: memoryview | None = None
        """The rest of a large frame, to be read into; call `filled` after that."""
        self.buffered: bool = False
        """Whether there are bytes that `next` has not consumed, be it because they are not a complete frame."""

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        self._data = self._data[self._at :] + data if self.buffered else data
        self._at = 0
        self.buffered = bool(self._data)

    def rest(self) -> bytes:
        """Returns the bytes that `next` has not consumed, for another reader to go on with."""
        return self._data[self._at :]

    def filled(self, size: int) -> None:
        """Notes that the first `size` bytes of `space` were read."""
        assert self.space is not None
        self.space = self.space[size:] if size < len(self.space) else None

    def next(self) -> list[Buffer] | bytes | Discarded | None:
        """Returns the next message as its frames, the next command as bytes, or None where neither is complete.

        Raises:
            ProtocolError: the bytes are no frame, or one that is too large.
        """
        if self.space is not None:
            return None
        data, at, end = self._data, self._at, len(self._data)
        begins = self._body is None and not self._frames
        # Fast paths for [empty, short envelope, payload], which almost all messages are: the same frames at a third of
        # the cost, and at a sixth where one comes alone and is cut like the one before.
        size, heads, flags_at, last_head = self._usual
        if end == size and not at and begins and data.startswith(heads) and data.startswith(last_head, flags_at):
            self._at, self.buffered = end, False
            return [b"", data[_COMMON_HEADS_BYTES:flags_at], bytearray(data[flags_at + 2 :])]
        if begins and self._common_fits and end - at >= _COMMON_BYTES and data.startswith(_COMMON_START, at):
            envelope_at = at + _COMMON_HEADS_BYTES
            flags_at = envelope_at + data[at + 3]
            payload_at = flags_at + 2
            if payload_at > end:
                pass
            elif data[flags_at] == 0:
                stop = payload_at + data[flags_at + 1]
                if stop <= end:
                    self._at, self.buffered = stop, stop < end
                    if stop == end and not at:
                        self._usual = end, data[:envelope_at], flags_at, data[flags_at:payload_at]
                    return [b"", data[envelope_at:flags_at], bytearray(data[payload_at:stop])]
            elif data[flags_at] == LONG and payload_at + 7 <= end:
                payload_at += 7
                size = int.from_bytes(data[flags_at + 1 : payload_at], "big")
                if payload_at + size > end and size >= _IN_PLACE_BYTES:
                    self._check(LONG, size)
                    self._begin(LONG, size, memoryview(data)[payload_at:])
                    self._frames = [b"", data[envelope_at:flags_at]]
                    self._at, self.buffered = end, False
                    return None
        found = self._found(data, at, end)
        self.buffered = self._at < end
        return found

    def burst(self) -> list[tuple[bytes, Buffer, int, int]]:
        """Takes the complete messages [empty, short envelope, short payload] that follow each other here, all at once.

        Returns:
            Of each its envelope, and the buffer that has its payload, from where to where: at a third of the cost of
            `next`, where most of them are only looked at.
        """
        data, at, end = self._data, self._at, len(self._data)
        found: list[tuple[bytes, Buffer, int, int]] = []
        if self.space is not None or self._body is not None or self._frames or not self._common_fits:
            return found
        while end - at >= _COMMON_BYTES and data.startswith(_COMMON_START, at):
            flags_at = at + 4 + data[at + 3]
            start = flags_at + 2
            if start > end or data[flags_at] or (stop := start + data[flags_at + 1]) > end:
                break
            found.append((data[at + 4 : flags_at], data, start, stop))
            at = stop
        self._at, self.buffered = at, at < end
        return found

    def _found(self, data: bytes, at: int, end: int) -> list[Buffer] | bytes | Discarded | None:
        """Returns the next message or command, of any form."""
        dropped = 0
        frame: Buffer
        while True:
            if self._body is None:
                start = at + 2
                if start > end:
                    break
                flags, size = data[at], data[at + 1]
                if flags & LONG:
                    start = at + 9
                    if start > end:
                        break
                    size = int.from_bytes(data[at + 1 : start], "big")
                self._check(flags, size)
                stop = start + size
                if stop > end:
                    if size >= _IN_PLACE_BYTES:
                        self._begin(flags, size, memoryview(data)[start:])
                        at = end
                    break
                at = stop
                frame = data[start:stop]
                if flags & COMMAND:
                    self._at = at
                    return frame
                if len(self._frames) >= HEAD_FRAMES:
                    frame = bytearray(frame)
            else:
                flags, frame, self._body = self._body_flags, self._body, None
                if len(self._frames) < HEAD_FRAMES and len(frame) <= HEAD_BYTES:
                    frame = bytes(frame)
            if len(self._frames) < self._max_frames:
                self._frames.append(frame)
            else:
                self._overlong = True
                dropped += 1
            if not flags & MORE:
                self._at = at
                frames, self._frames = self._frames, []
                overlong, self._overlong = self._overlong, False
                return Discarded.MESSAGE if overlong else frames
            if dropped >= _MAX_DISCARDED:
                self._at = at
                return Discarded.PART
        self._at = at
        return None

    def _check(self, flags: int, size: int) -> None:
        if flags > MORE | LONG:
            if flags & ~LONG != COMMAND or size > _MAX_COMMAND_BYTES:
                raise ProtocolError(f"frame of {size} bytes has invalid flags {flags:#04x}")
        elif self._max_frame_bytes is not None and size > self._max_frame_bytes:
            raise ProtocolError(f"frame of {size} bytes; at most {self._max_frame_bytes} are allowed")

    def abandon(self) -> None:
        """Frees a large frame that is half received and will not come on, as the connection has ended."""
        self.reserve = None  # it refers to who owns this
        if self.space is not None:
            self.space = self._body = None
            self._frames = []

    def limit(self, max_frame_bytes: int | None) -> None:
        """Changes the limit of frames."""
        self._max_frame_bytes, self._usual = max_frame_bytes, _NONE_USUAL
        self._common_fits = self._max_frames > HEAD_FRAMES and (
            max_frame_bytes is None or max_frame_bytes >= SHORT_BYTES
        )

    def _begin(self, flags: int, size: int, there: memoryview) -> None:
        if self.reserve is not None and not self.reserve(size):
            raise ProtocolError(f"no room for a frame of {size} bytes: too much is half received or not read")
        body = None if self._allocate is None else self._allocate(size)
        try:
            # Uninitialized memory: it is filled before it is returned.
            self._body, self._body_flags = np.empty(size, np.uint8).data if body is None else body, flags
        except (MemoryError, ValueError) as error:
            raise ProtocolError(f"no memory for a frame of {size} bytes") from error
        self._body[: len(there)] = there
        self.space = self._body[len(there) :]
