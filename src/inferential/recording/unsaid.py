"""Keeps entries of answers that were sent in time until the robot says whether it used them in time; no clock, no I/O.

It says so with a later observation. Of each robot and model the server remembers a few answers, and so does this.
"""

from __future__ import annotations

from collections import OrderedDict

from inferential.recording.entries import Entry
from inferential.tracking.limits import MAX_OPEN

_Key = tuple[str, str]
"""A robot and its model."""


class Unsaid:
    """Entries whose lateness is not known yet.

    Attributes:
        bytes_held: by those.
        is_short: whether one was ever let go for want of room.
    """

    def __init__(self) -> None:
        self.bytes_held: int = 0
        self.is_short: bool = False
        self._kept: OrderedDict[_Key, dict[int, Entry]] = OrderedDict()  # by request id; who was answered last is last

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def keep(self, entry: Entry, most_bytes: float) -> list[Entry]:
        """Keeps an entry; returns those that are let go for it.

        Args:
            entry: of an answer that was sent in time.
            most_bytes: that all may hold.
        """
        key, request_id = _key(entry), entry.common["request_id"]
        own = self._kept.setdefault(key, {})
        self._kept.move_to_end(key)
        let_go = [own.pop(request_id)] if request_id in own else []
        if len(own) == MAX_OPEN:
            let_go.append(own.pop(next(iter(own))))
        own[request_id] = entry
        self.bytes_held += entry.bytes_held - sum(one.bytes_held for one in let_go)
        while self.bytes_held > most_bytes:
            self.is_short = True
            longest = next(iter(self._kept))
            let_go.append(self._take(longest, next(iter(self._kept[longest]))))
        return let_go

    def take(self, client_id: str, model_id: str, request_id: int) -> Entry | None:
        """Returns the entry of an answer that was used too late; None where it is not kept."""
        key = client_id, model_id
        return self._take(key, request_id) if request_id in self._kept.get(key, {}) else None

    def let_go(self) -> list[Entry]:
        """Returns all entries, and keeps none."""
        entries = [entry for own in self._kept.values() for entry in own.values()]
        self._kept.clear()
        self.bytes_held = 0
        return entries

    def _take(self, key: _Key, request_id: int) -> Entry:
        own = self._kept[key]
        entry = own.pop(request_id)
        if not own:
            del self._kept[key]
        self.bytes_held -= entry.bytes_held
        return entry


def _key(entry: Entry) -> _Key:
    return entry.common["client_id"], entry.common["model_id"]
