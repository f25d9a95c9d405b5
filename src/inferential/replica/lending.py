"""Which payloads a worker process looks at, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

from inferential.proto.tensors import Buffer
from inferential.replica.inbox import INBOX_AT, Inbox
from inferential.replica.pace import LARGE_BYTES, Pace
from inferential.replica.shared import SHARED_FROM_BYTES, Place, ServersMemory


class Lending:
    """The payloads that one worker looks at.

    Args:
        memory: shared with this worker alone; None: there is none.
        inbox: what payloads are received into; None: there is none.
        pace: takes in which payloads are large; None: nothing does.
    """

    def __init__(self, memory: ServersMemory | None, inbox: Inbox | None, pace: Pace | None = None) -> None:
        self._memory = memory
        self._inbox = inbox
        self._pace = pace
        self._lent: dict[int, Buffer] = {}  # payloads in the inbox, by offset

    def lend(self, payload: Buffer) -> Place | None:
        """Returns where the worker finds a payload, which it says when it no longer needs; None: it must be sent."""
        if len(payload) < SHARED_FROM_BYTES:
            return None
        if self._pace is not None and len(payload) > LARGE_BYTES:
            self._pace.note_large()
        place = None if self._inbox is None else self._inbox.place_of(payload)
        # Of one that the model looks at still, a second view would show what it has written there.
        if place is not None and place.offset not in self._lent:
            self._lent[place.offset] = payload
            return place
        return None if self._memory is None else self._memory.put(payload)

    def take_back(self, offsets: Sequence[int]) -> None:
        """Notes that the worker no longer looks at these."""
        for offset in offsets:
            if offset >= INBOX_AT:
                self._lent.pop(offset, None)
            elif self._memory is not None:
                self._memory.give(offset)
