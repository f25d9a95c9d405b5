"""What robots are owed whose connections have ended, until they come back within the same life.

A robot whose server answers no heartbeat, as a model holds the interpreter's lock, connects anew. A restarted one has
another life (`zmtp.protocol.LIFE`), and gets nothing of this. It does no I/O and has no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from inferential.proto.tensors import Buffer
from inferential.transport.messages import Received

KEPT_S = 5.0
"""How long a robot may be away: it connects anew at once, or within its pause between attempts."""
MAX_BYTES = 64 * 1024 * 1024
"""Of all that is kept."""
MAX_ABSENT = 4096
MAX_MESSAGES = 64
"""Of one robot; the newest are kept."""
_MAX_FORMER = 8  # connections of one robot whose running requests may still be answered


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A result that found no connection."""

    client_id: str
    request_id: int
    envelope: Buffer
    payload: Buffer


@dataclass(slots=True)
class Absence:
    """A robot whose connection has ended.

    Attributes:
        identity: of the robot.
        number: of that connection.
        life: of the robot.
        since: when the connection ended, in seconds of `time.monotonic()`.
        former: numbers of connections that it had before that.
        waiting: messages of its requests that waited; these have ended, and are asked again if it comes back.
        unread: messages that were received and not looked at.
        answers: of its requests that ran.
        size: bytes of all of these.
    """

    identity: bytes
    number: int
    life: bytes
    since: float
    former: tuple[int, ...] = ()
    waiting: list[Received] = field(default_factory=list)
    unread: list[Received] = field(default_factory=list)
    answers: list[KeptAnswer] = field(default_factory=list)
    size: int = 0


class Returns:
    """The robots that are away, by identity, and which connection each former one has led to."""

    def __init__(self) -> None:
        self._absent: OrderedDict[bytes, Absence] = OrderedDict()
        self._by_number: dict[int, Absence] = {}
        self._successors: dict[int, int] = {}
        self._former: dict[int, tuple[int, ...]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._absent)

    def sizes(self) -> dict[str, int]:
        """Returns the number of robots that are away, the bytes kept for them, and of former connections."""
        return {
            "robots_away": len(self._absent),
            "robots_away_bytes": self._bytes,
            "connections_former": len(self._successors),
        }

    def left(self, number: int, identity: bytes, life: bytes, now: float) -> list[Absence]:
        """Notes the end of a robot's connection; returns what is given up by that."""
        given_up = [self._pop(identity)] if identity in self._absent else []
        while len(self._absent) >= MAX_ABSENT:
            given_up.append(self._pop(next(iter(self._absent))))
        absence = Absence(identity, number, life, now, self._former.pop(number, ()))
        self._absent[identity] = self._by_number[number] = absence
        return given_up

    def is_away(self, number: int) -> bool:
        """Returns whether the robot of a connection that has ended may come back."""
        return number in self._by_number

    def owe_nothing(self, number: int) -> None:
        """Notes that nothing of a robot that is away waits or runs: unless it has sent more, it is not waited for."""
        absence = self._by_number[number]
        if not absence.unread:
            self._pop(absence.identity)

    def keep_waiting(self, message: Received) -> None:
        """Keeps the message of a request that waited, while its robot is away."""
        self._keep(self._by_number[message[4]], message, unread=False)

    def keep_unread(self, message: Received) -> bool:
        """Keeps a message that was not looked at; returns False where there is no room."""
        return self._keep(self._by_number[message[4]], message, unread=True)

    def _keep(self, absence: Absence, message: Received, *, unread: bool) -> bool:
        kept = absence.unread if unread else absence.waiting
        size = len(message[1]) + len(message[2])
        if len(kept) >= MAX_MESSAGES or self._bytes + size > MAX_BYTES:
            return False
        kept.append(message)
        absence.size += size
        self._bytes += size
        return True

    def keep_answer(self, number: int, answer: KeptAnswer) -> bool:
        """Keeps an answer; returns False where its robot is not away, or there is no room."""
        absence = self._by_number.get(self.place(number))
        size = len(answer.envelope) + len(answer.payload)
        if absence is None or len(absence.answers) >= MAX_MESSAGES or self._bytes + size > MAX_BYTES:
            return False
        absence.answers.append(answer)
        absence.size += size
        self._bytes += size
        return True

    def came(self, number: int, identity: bytes, life: bytes) -> tuple[Absence | None, Absence | None]:
        """Notes a new connection; returns what it is owed, and what is given up as it is of another life."""
        if identity not in self._absent:
            return None, None
        absence = self._pop(identity)
        if absence.life != life:
            return None, absence
        former = (*absence.former, absence.number)
        for dropped in former[:-_MAX_FORMER]:
            self._successors.pop(dropped, None)
        self._former[number] = former = former[-_MAX_FORMER:]
        self._successors.update(dict.fromkeys(former, number))
        return absence, None

    def place(self, number: int) -> int:
        """Returns the number of the connection that a robot has after one that ended; the same where it has none."""
        return self._successors.get(number, number)

    def expire(self, now: float) -> list[Absence]:
        """Gives up robots that are away for too long, and returns them."""
        given_up = []
        while self._absent and next(iter(self._absent.values())).since + KEPT_S <= now:
            given_up.append(self._pop(next(iter(self._absent))))
        return given_up

    def _pop(self, identity: bytes) -> Absence:
        absence = self._absent.pop(identity)
        del self._by_number[absence.number]
        self._bytes -= absence.size
        for number in absence.former:
            self._successors.pop(number, None)
        return absence
