"""Connections of robots that know of each of their requests how often it ended, and in what."""

from __future__ import annotations

import socket
import struct
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from bench.overload.wire import PING, PONG, Frames, frame
from inferential.proto import ModelResponse, Status


@dataclass(eq=False)
class Life:
    """One connection of a robot; it never waits for its server.

    Attributes:
        sent: request ids, in their order, and the model that each asks.
        half: the one whose message was cut.
        ended: in what each ended: one thing.
        ends: the same, by the name of the status.
        taken_back: requests that it took back: of those that wait no more is said.
        asked_after: requests of its former connection, of which it asked what became of them.
        strange: what came and was for no request of it.
        closed: who ended the connection; "" while it stands.
        excused: the server may have ended it, as this program did not answer a heartbeat in time.
        life: of the robot: one that comes back within it is owed what its former connection was.
    """

    name: str
    opened: socket.socket
    frames: Frames
    sent: dict[int, str] = field(default_factory=dict)
    half: int = 0
    ended: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    ends: Counter[str] = field(default_factory=Counter)
    taken_back: set[int] = field(default_factory=set)
    asked_after: frozenset[int] = frozenset()
    strange: list[str] = field(default_factory=list)
    closed: str = ""
    excused: bool = False
    life: bytes = b""
    _unsent: bytearray = field(default_factory=bytearray)

    def open_ids(self) -> list[int]:
        """Returns the requests that have not ended, and must."""
        return [number for number in self.sent if number not in self.ended and number not in self.taken_back]

    def read(self) -> None:
        """Takes what has come, and sends on."""
        while not self.closed:
            try:
                data = self.opened.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close("server")
                return
            for found in self.frames.feed(data):
                self._take(found)
        self.write(b"")

    def _take(self, found: list[bytes] | bytes) -> None:
        if isinstance(found, bytes):
            if found.startswith(PING):
                self.write(frame(PONG + found[7:], 4))
            return
        response = ModelResponse.FromString(found[1])
        status = Status.Name(response.status)
        if status == "OUTDATED":
            return  # it waits on
        if response.request_id not in self.sent:
            self.strange.append(f"{status} for {response.request_id}: {response.reason}")
        self.ended[response.request_id].append(f"{status} {response.cause}".strip())
        self.ends[status] += 1

    @property
    def has_unsent(self) -> bool:
        """Whether its server does not take what it sends."""
        return bool(self._unsent)

    def write(self, data: bytes) -> None:
        """Sends what can be sent at once; the rest goes with what follows, or when `read` is called."""
        self._unsent += data
        while self._unsent and not self.closed:
            try:
                del self._unsent[: self.opened.send(self._unsent)]
            except BlockingIOError:
                return
            except OSError:
                self.close("server")

    def close(self, by: str, *, reset: bool = False) -> None:
        """Ends it."""
        if not self.closed:
            self.closed = by
            if reset:
                self.opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.opened.close()
