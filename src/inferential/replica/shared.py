"""Memory that a server shares with a replica of its own host: a large payload is copied there once, and is not sent.

It sends nothing and waits for nothing; what the ends say of it goes with the messages of `wire.py`.

The memory is a file without a name (memfd_create(2)): only this user's processes can open it, by /proc, and it
is gone with the last process that has it, however that one ends. A file in /dev/shm would be neither, and containers
have 64 MB of that. Its size is sealed, so that no end can take away what the other one looks at.

The server puts a payload in a place that is free. The replica's model gets a view of it, and the place is free again
when nothing in the replica looks at it any more: a model may keep an observation for as long as it likes.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import weakref
from collections import deque
from dataclasses import asdict, dataclass

import numpy as np

from inferential.proto.tensors import Buffer

SIZE_BYTES = 64 * 1024 * 1024  # what is never used costs nothing
SHARED_FROM_BYTES = 64 * 1024  # below it, finding a place takes longer than it saves
SHARED_UP_TO_BYTES = 16 * 1024 * 1024  # above it the copy, which the event loop makes, would hold up others
_PAGE = 4096
_TOKEN_BYTES = 32
_RUNS, _RUNS_AT = struct.Struct("<QIxxxxQ"), 64
_RAN, _RAN_AT = struct.Struct("<QQ"), 128
ALL_ROWS = 2**32 - 1
"""Instead of the number of a row: all of a batch run at once."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW if hasattr(fcntl, "F_SEAL_SHRINK") else 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a payload lies."""

    offset: int
    length: int


class Places:
    """Which parts of the memory are free; the lowest that fits is taken, since it is the likeliest to be in a cache.

    Args:
        begin, end: of what there is to give, at whole pages.
    """

    def __init__(self, begin: int, end: int) -> None:
        self._free: list[tuple[int, int]] = [(begin, end)]  # in order, none beside another
        self._taken: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, length: int) -> int | None:
        """The offset of so many bytes; None where there is no room for them."""
        size = -(-length // _PAGE) * _PAGE
        for number, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                self._free[number : number + 1] = [(begin + size, end)] if end - begin > size else []
                self._taken[begin] = begin + size
                return begin
        return None

    def give(self, offset: int) -> None:
        """A part is free again; an offset that was not taken is none of ours, and ignored."""
        end = self._taken.pop(offset, None)
        if end is None:
            return
        free = [*self._free, (offset, end)]
        free.sort()
        self._free = free[:1]
        for begin, end in free[1:]:
            if self._free[-1][1] == begin:
                self._free[-1] = self._free[-1][0], end
            else:
                self._free.append((begin, end))


@dataclass(frozen=True, slots=True)
class Offer:
    """What a replica must know to look into a server's memory.

    Attributes:
        pid, fd: the server's process and its descriptor, as /proc names them.
        token: stands at the memory's beginning: a process of that number in another container has another one.
    """

    pid: int
    fd: int
    token: str

    def to_bytes(self) -> bytes:
        """As a frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, frame: Buffer) -> Offer:
        """Reads a frame; ValueError where it is none."""
        try:
            offer = cls(**json.loads(bytes(frame)))
        except TypeError as error:
            raise ValueError(f"no offer of shared memory: {error}") from error
        if not (isinstance(offer.pid, int) and isinstance(offer.fd, int) and isinstance(offer.token, str)):
            raise ValueError(f"no offer of shared memory: {offer}")
        return offer


def new_memory(size_bytes: int = SIZE_BYTES) -> int:
    """Returns the descriptor of new memory, of a size that nothing can change.

    Raises:
        OSError: there can be none.
    """
    if not _SEALS:
        raise OSError("this platform has no memory that can be shared so")
    fd = os.memfd_create("inferential", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class ServersMemory:
    """The memory, as the server has it.

    Raises:
        OSError: there can be none.
    """

    def __init__(self) -> None:
        self._fd = new_memory()
        try:
            mapped = mmap.mmap(self._fd, SIZE_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        import secrets  # not in workers: it loads OpenSSL

        token = secrets.token_hex(_TOKEN_BYTES // 2)
        mapped[:_TOKEN_BYTES] = token.encode()
        self.offer: Offer = Offer(os.getpid(), self._fd, token)
        self._map = mapped
        self._bytes = np.frombuffer(mapped, np.uint8)
        self._places = Places(_PAGE, SIZE_BYTES)

    def put(self, payload: Buffer) -> Place | None:
        """Copies a payload there; None where it had better be sent: it is too small, too large, or there is no room."""
        length = len(payload)
        if not SHARED_FROM_BYTES <= length <= SHARED_UP_TO_BYTES:
            return None
        offset = self._places.take(length)
        if offset is None:
            return None
        self._bytes[offset : offset + length] = np.frombuffer(payload, np.uint8)
        return Place(offset, length)

    def give(self, offset: int) -> None:
        """Frees a place that is read no more."""
        self._places.give(offset)

    @property
    def fd(self) -> int:
        """The descriptor, for a process that inherits it."""
        return self._fd

    @property
    def taken(self) -> int:
        """How many payloads lie there that a replica still reads."""
        return len(self._places)

    def marked(self) -> tuple[int, int]:
        """Returns the number of the call and of the row that the replica began last; 0 for a call: none."""
        call, row, _ = _RUNS.unpack_from(self._map, _RUNS_AT)
        return call, row

    def began_at(self) -> float:
        """Returns when the replica began that row, in seconds of `time.monotonic()`, which is one for all processes."""
        _, _, began_ns = _RUNS.unpack_from(self._map, _RUNS_AT)
        return float(began_ns) / 1e9

    def run_noted(self) -> tuple[int, int]:
        """Returns for how many nanoseconds, and how many rows, the replica's model has run in all."""
        return _RAN.unpack_from(self._map, _RAN_AT)

    def close(self) -> None:
        """Closes the descriptor: no other process can open the memory any more, and it goes with the last that has it.

        Twice is fine.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_memory(offer: Offer) -> ReplicasMemory:
    """Opens a server's memory from another process of its host.

    Raises:
        OSError: it cannot be opened from here, or is not what it should be.
    """
    import secrets

    fd = os.open(f"/proc/{offer.pid}/fd/{offer.fd}", os.O_RDWR | os.O_CLOEXEC)
    try:
        memory = ReplicasMemory(fd)
    finally:
        os.close(fd)
    if not secrets.compare_digest(memory.token, offer.token):
        raise OSError("it is another process's")
    return memory


class ReplicasMemory:
    """A server's memory, as a replica has it.

    Args:
        fd: of the memory; it may be closed afterwards.

    Raises:
        OSError: it is not what it should be.
    """

    def __init__(self, fd: int) -> None:
        try:
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise OSError("its size is not sealed")
            self._map = mmap.mmap(fd, SIZE_BYTES)
        except ValueError as error:
            raise OSError(str(error)) from error
        self.token: str = self._map[:_TOKEN_BYTES].decode("ascii", "replace")
        self._freed: deque[int] = deque()  # filled by whatever thread lets go last

    def mark(self, call: int, row: int, now_ns: int) -> None:
        """Notes which row is about to run, should the process end there, and since when; ALL_ROWS: a whole batch."""
        _RUNS.pack_into(self._map, _RUNS_AT, call, row, now_ns)

    def note_run(self, nanoseconds: int, rows: int) -> None:
        """Notes for how long, and how many rows, the model has run in all."""
        _RAN.pack_into(self._map, _RAN_AT, nanoseconds, rows)

    def view(self, place: Place) -> memoryview:
        """What lies there; the place is free again when the view, and all that was made of it, is gone.

        Raises:
            ValueError: there is no such place.
        """
        if place.length <= 0 or place.offset < _PAGE:
            raise ValueError(f"no payload can lie at {place}")
        array = np.frombuffer(self._map, np.uint8, place.length, place.offset)
        weakref.finalize(array, self._freed.append, place.offset).atexit = False
        return memoryview(array)  # type: ignore[arg-type]

    def freed(self) -> list[int]:
        """The offsets that are free again since it was last asked."""
        offsets = []
        while self._freed:
            offsets.append(self._freed.popleft())
        return offsets
