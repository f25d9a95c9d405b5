"""Memory that a server shares with the process that writes: a payload is copied there once, and not sent.

The process takes entries in the order of their numbers, and notes the number of the last that it is done with; what
lies there of it, and of those before it, is free then.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import numpy as np

from inferential.proto.tensors import Buffer
from inferential.replica.shared import Place, Places, new_memory

_PAGE = 4096
_MOST_BYTES = 1 << 30
_SHARED_FROM_BYTES = 16 * 1024  # below it, sending is as fast


class RecordersMemory:
    """The memory, as the server has it.

    Args:
        size_bytes: of payloads that lie there at once, at most; up to a gigabyte. What is never used costs nothing.

    Raises:
        OSError: there can be none.

    Attributes:
        fd: its descriptor, for a process that inherits it.
    """

    def __init__(self, size_bytes: int) -> None:
        end = _PAGE + -(-min(size_bytes, _MOST_BYTES) // _PAGE) * _PAGE
        try:
            self.fd: int = new_memory(end)
        except OSError:  # of other platforms than Linux: payloads are sent, and the number alone is shared
            end = _PAGE
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
            os.ftruncate(self.fd, end)
        self._bytes = np.frombuffer(mmap.mmap(self.fd, end), np.uint8)
        self._done = _number_in(self._bytes)
        self._places = Places(_PAGE, end)

    def put(self, payload: Buffer) -> Place | None:
        """Copies a payload there; None where it had better be sent: it is small, or there is no room."""
        length = len(payload)
        offset = self._places.take(length) if length >= _SHARED_FROM_BYTES else None
        if offset is None:
            return None
        self._bytes[offset : offset + length] = np.frombuffer(payload, np.uint8)
        return Place(offset, length)

    def give(self, place: Place) -> None:
        """Frees a place that is read no more."""
        self._places.give(place.offset)

    @property
    def taken(self) -> int:
        """How many payloads lie there."""
        return len(self._places)

    @property
    def done(self) -> int:
        """The number of the last entry that the process is done with; 0: none."""
        return int(self._done[0])

    def note_done(self, number: int) -> None:
        """Notes the same of entries that no process has."""
        self._done[0] = number

    def close(self) -> None:
        """Closes the descriptor; processes that have the memory keep it."""
        os.close(self.fd)


class WritersMemory:
    """The memory, as the process that writes has it.

    Args:
        fd: of the memory; it may be closed afterwards.
    """

    def __init__(self, fd: int) -> None:
        self._bytes = np.frombuffer(mmap.mmap(fd, 0), np.uint8)
        self._done = _number_in(self._bytes)

    def view(self, place: Place) -> memoryview:
        """Returns what lies there, until `note_done`."""
        return memoryview(self._bytes[place.offset : place.offset + place.length])  # type: ignore[arg-type]

    def note_done(self, number: int) -> None:
        """Notes the number of the last entry that is read no more."""
        self._done[0] = number


def _number_in(memory: Any) -> Any:
    return memory[:8].view(np.uint64)  # stored at once, by one instruction
