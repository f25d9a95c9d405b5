"""Memory that large payloads are received into, and that worker processes see without a copy.

Every worker maps it copy-on-write (MAP_PRIVATE, mmap(2)): a model may write to its arrays, and neither the server nor
another worker sees it, so that a payload that is tried again is what the robot sent.

Like the memory of `shared.py` it is a file without a name, of a sealed size.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque

import numpy as np

from inferential.proto.tensors import Buffer
from inferential.replica.shared import SHARED_FROM_BYTES, SHARED_UP_TO_BYTES, SIZE_BYTES, Place, Places, new_memory

INBOX_AT = SIZE_BYTES
"""Added to offsets in the inbox, where they stand beside those in a worker's own memory."""


class Inbox:
    """The memory, as the server has it; used on the event loop, and let go of in any thread.

    Raises:
        OSError: there can be none.
    """

    def __init__(self) -> None:
        self.fd: int = new_memory()
        """The descriptor, for processes that inherit it."""
        weakref.finalize(self, os.close, self.fd)
        self._map = mmap.mmap(self.fd, SIZE_BYTES)
        self._places = Places(0, SIZE_BYTES)
        self._place_of: dict[int, Place] = {}  # by id() of the array that lies there
        self._freed: deque[int] = deque()

    def allocate(self, length: int) -> memoryview | None:
        """Returns memory for a payload, which is free again when nothing looks at it any more.

        None where the payload had better lie elsewhere: it is too small, too large, or there is no room.
        """
        if not SHARED_FROM_BYTES <= length <= SHARED_UP_TO_BYTES:
            return None
        while self._freed:
            self._places.give(self._freed.popleft())
        offset = self._places.take(length)
        if offset is None:
            return None
        array = np.frombuffer(self._map, np.uint8, length, offset)
        self._place_of[id(array)] = Place(INBOX_AT + offset, length)
        weakref.finalize(array, self._let_go, id(array), offset).atexit = False
        return memoryview(array)  # type: ignore[arg-type]

    def place_of(self, payload: Buffer) -> Place | None:
        """Returns where a payload lies, counted from INBOX_AT; None where it does not lie here as a whole."""
        if type(payload) is not memoryview:
            return None
        place = self._place_of.get(id(payload.obj))
        return place if place is not None and place.length == len(payload) else None

    def _let_go(self, key: int, offset: int) -> None:
        del self._place_of[key]
        self._freed.append(offset)


class InboxView:
    """The memory, as a worker has it.

    Args:
        fd: of the memory; it may be closed afterwards.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE_BYTES, access=mmap.ACCESS_COPY)
        self._freed: deque[Place] = deque()  # filled by whatever thread lets go last

    def view(self, place: Place) -> memoryview:
        """Returns what lies there; the place is free again when the view, and all that was made of it, is gone.

        Raises:
            ValueError: there is no such place.
        """
        array = np.frombuffer(self._map, np.uint8, place.length, place.offset - INBOX_AT)
        weakref.finalize(array, self._freed.append, place).atexit = False
        return memoryview(array)  # type: ignore[arg-type]

    def freed(self) -> list[int]:
        """Returns the offsets that are free again since it was last asked, and forgets what was written there."""
        offsets = []
        while self._freed:
            place = self._freed.popleft()
            # Else pages that the model wrote to would hide what is received there next.
            self._map.madvise(mmap.MADV_DONTNEED, place.offset - INBOX_AT, place.length)
            offsets.append(place.offset)
        return offsets
