"""Where clients flood a model, has their requests run when no other client is expected to ask for it.

A call is not interrupted. One of a client that floods (`time.fair_share`) would keep a client that comes while it runs
waiting for its rest, however late such requests stand in the order. So they are shown to the strategy only when a
replica would else stand idle, and their call is over before the next of the others comes, as these keep to their
cadence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import FREE, Availability, ReplicaSlot
from inferential.scheduler.time.expected import Expected

Key = TypeVar("Key", bound=Hashable)

PATIENCE_S = 0.5
"""After so long requests that flood are shown all the same, where others leave no room for them: those of one call."""
_MOST_OFF = 1.0
"""Calls by which the others may be off their cadence, on average; with more it does not tell when they come."""
_MOST_POOLS = 64


class Floods(Generic[Key]):
    """The queues of clients that flood, by pool, which wait for a moment at which no other client is expected.

    Args:
        availability: which replicas are free, and how long calls take.
    """

    def __init__(self, availability: Availability) -> None:
        self._availability = availability
        self._expected: dict[str, Expected] = {}
        self.waiting: dict[str, dict[Key, None]] = {}
        """By pool, of which the first is the next; always the same object."""
        self._since: dict[str, float] = {}  # when one of them was last let run, or the first came
        self._look_at: dict[str, float] = {}

    def expect(self, request: InferenceRequest) -> None:
        """Notes a request of a client that does not flood, which asks again by its cadence."""
        if (expected := self._expected.get(request.pool)) is None:
            if len(self._expected) >= _MOST_POOLS:
                self._expected.clear()
            expected = self._expected[request.pool] = Expected()
        expected.note(request.client_id, request.received_at, request.time_until_next, 0.0, 1.0)

    def stops(self, request: InferenceRequest) -> bool:
        """Returns whether a request is not to be shown before `due` names its queue."""
        return request.floods and any(self._foreseen(request.pool))

    def enter(self, key: Key, pool: str, now: float) -> None:
        """Has a queue wait whose next request was stopped."""
        if pool not in self.waiting:
            self.waiting[pool] = {}
            self._since[pool] = now
        if key not in self.waiting[pool]:
            self.waiting[pool][key] = None
            self._look_at[pool] = -math.inf

    def due(self, now: float, waits: Callable[[Key], bool], is_idle: Callable[[ReplicaSlot], bool]) -> list[Key]:
        """Returns the queues whose next requests may run now: of each pool, or device, no more than one call takes.

        To be called once what waits besides has been dispatched.

        Args:
            now: seconds of `time.monotonic()`.
            waits: returns whether a queue has a next request still.
            is_idle: returns whether the strategy keeps nothing back for a replica.
        """
        found: list[Key] = []
        taken: set[str] = set()
        for pool in list(self.waiting):
            waiting = self.waiting[pool] = {key: None for key in self.waiting[pool] if waits(key)}
            if not waiting:
                self._forget(pool)
                continue
            slots, latest = self._availability.slots(pool), self._since[pool] + PATIENCE_S
            free = [slot for slot in slots if slot.free_at == FREE]
            if now < latest and (not free or pool in taken or not is_idle(free[0])):
                self._look_at[pool] = latest  # before, the end of a call is an event, or what the strategy waits for
                continue
            rows = min(len(waiting), (free or slots)[0].max_batch_size)
            at = now
            if now < latest and len(free) == 1:
                at = min(self._clear_from(pool, now, free[0].profile.high(rows)), latest)
            self._look_at[pool] = at
            if at > now:
                continue
            for key in list(waiting)[:rows]:
                del waiting[key]
                found.append(key)
            self._since[pool], self._look_at[pool] = now, math.inf
            taken.update(self._availability.colocated_models(pool))
            if not waiting:
                self._forget(pool)
        return found

    def due_at(self) -> float | None:
        """Returns when `due` next has something to return if nothing happens before; None: it has not."""
        at = min(self._look_at.values(), default=math.inf)
        return at if at < math.inf else None

    def clear(self) -> None:
        """Forgets the queues that wait."""
        for pool in list(self.waiting):
            self._forget(pool)

    def _forget(self, pool: str) -> None:
        del self.waiting[pool], self._since[pool], self._look_at[pool]

    def _foreseen(self, pool: str) -> Iterator[Expected]:
        """Yields what is expected of the pools that share a pool's replicas, as far as it tells when clients come."""
        if self._expected:
            for each in self._availability.colocated_models(pool):
                expected = self._expected.get(each)
                if expected is not None and expected.off_s <= _MOST_OFF * self._typical_s(pool):
                    yield expected

    def _typical_s(self, pool: str) -> float:
        return min(slot.profile.typical(1) for slot in self._availability.slots(pool))

    def _clear_from(self, pool: str, now: float, lasts_s: float) -> float:
        """Returns from when on no client is expected while a call runs that lasts so many seconds."""
        foreseen = list(self._foreseen(pool))
        while True:
            at = now
            for expected in foreseen:
                at = expected.clear_from(at, lasts_s)
            if at <= now:
                return now
            now = at
