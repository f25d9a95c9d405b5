"""The requests of a robot that plays chunks: in flight, or given up while their answer may still come. No clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

ENDED_S = 0.1
"""How old a request is at least when it is known that no answer comes: runtimes that replace one another's requests, as
those of one model on one connection do, are not to observe at every step."""
_LASTING = frozenset(
    {"InvalidChunk", "ModelFailed", "BatchFailed", "ModelFailing", "UnknownModel", "InvalidObservation"}
)
"""Errors that the next observation will probably end in too: it would cost the model, and other robots, as much."""
_PAUSE_S, _MOST_PAUSE_S = 0.02, 0.5  # after the first, twice as long after each more
_MAX_OPEN = 64
_MAX_LOST = 16
_MOST_PATIENT = 6  # doublings


@dataclass(frozen=True, slots=True)
class Asked:
    """An observation that was sent: its control step, its time, and how many steps had no action before it."""

    step: int
    at: float
    stood: int


class OpenRequests:
    """Requests by id, oldest first; bounded."""

    def __init__(self) -> None:
        self.in_flight: OrderedDict[int, Asked] = OrderedDict()
        self.lost: OrderedDict[int, Asked] = OrderedDict()
        """Given up; an answer that comes is used all the same."""
        self._losses = self._failures = 0  # in succession

    def __len__(self) -> int:
        return len(self.in_flight) + len(self.lost)

    def add(self, request_id: int, asked: Asked) -> None:
        """Adds a request."""
        self.in_flight[request_id] = asked
        if len(self.in_flight) > _MAX_OPEN:
            self.in_flight.popitem(last=False)

    def get(self, request_id: int) -> Asked | None:
        """Returns a request; None for one that is not known."""
        return self.in_flight.get(request_id) or self.lost.get(request_id)

    def newest_is(self, request_id: int) -> bool:
        """Returns whether a request is in flight and none was made after it."""
        return bool(self.in_flight) and request_id == next(reversed(self.in_flight))

    def remove(self, request_id: int) -> None:
        """Removes a request that has ended."""
        self.in_flight.pop(request_id, None)
        self.lost.pop(request_id, None)

    def failed(self, request_id: int, error: str) -> None:
        """Removes a request that ended in an error of this type."""
        self.remove(request_id)
        self._failures = self._failures + 1 if error in _LASTING else 0

    def pause_s(self) -> float:
        """Returns how long after a request that failed the next is made at the earliest, in seconds."""
        return min(_PAUSE_S * 2 ** (min(self._failures, _MOST_PATIENT) - 1), _MOST_PAUSE_S) if self._failures else 0.0

    def answered(self, request_id: int, asked: Asked, *, each_is_answered: bool) -> None:
        """Removes a request, and those that its observation had replaced: the server drops them."""
        self.remove(request_id)
        self._losses = self._failures = 0
        if not each_is_answered:
            for older in [key for key, one in self.in_flight.items() if one.step <= asked.step]:
                del self.in_flight[older]

    def drop_ended(self, now: float, awaits: Callable[[int], bool] | None) -> int:
        """Forgets requests whose answer will not come, once the newest is one of them; returns how many were awaited.

        That is at most one: the others had been replaced by it.
        """
        if awaits is None or not self.in_flight:
            return 0
        request_id = next(reversed(self.in_flight))
        if now - self.in_flight[request_id].at < ENDED_S or awaits(request_id):
            return 0
        for ended in [one for one in self.in_flight if not awaits(one)]:
            del self.in_flight[ended]
        return 1

    def give_up(self, now: float, patience_s: float) -> int:
        """Gives up requests that are older than that, twice as old with each loss; returns their number."""
        patience_s *= 2 ** min(self._losses, _MOST_PATIENT)
        late = [request_id for request_id, asked in self.in_flight.items() if now - asked.at > patience_s]
        for request_id in late:
            self.lost[request_id] = self.in_flight.pop(request_id)
            if len(self.lost) > _MAX_LOST:
                self.lost.popitem(last=False)
        self._losses += len(late)
        return len(late)
