"""Gives the requests of a call that takes too long to another version of their model.

It runs on the server's event loop and reads the clock where it is called from outside; the parts that it asks decide.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

from inferential.models.overdue import overdue_at
from inferential.models.placement import whole
from inferential.models.readiness import Surroundings
from inferential.models.routes import Routes
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import LatencyProfile

logger: logging.Logger = logging.getLogger("inferential.models")


class HandingOver(Routes):
    """The pools that answer, and those whose calls another one answers meanwhile."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        self.replaceable: dict[str, str] = {}
        """Pools whose calls another one answers if they take too long, and that one."""
        self.on_overdue: Callable[[Batch, Callable[[InferenceRequest], object]], None] = lambda batch, moved: None
        """Called with a call that robots cannot wait for, and what gives its requests another pool."""
        self._has_fallback = False
        self._overdue: set[str] = set()  # pools with such a call that runs still: robots ask others meanwhile

    def _is_asked(self, pool_id: str) -> bool:
        return super()._is_asked(pool_id) and pool_id not in self._overdue

    def _route_anew(self) -> None:
        super()._route_anew()
        self._has_fallback = any(plan.fallback is not None for plan in self.lineup.plans.values())
        self.replaceable = {
            one.pool_id: current
            for one in self.lineup.pools()
            if (current := self.lineup.pool(one.model_id)) not in (None, one.pool_id)
            and current not in self.unready
            and self.lineup.role(one) not in ("active", "shadow")
        }

    def is_replaceable(self, pool: str) -> bool:
        """Returns whether another pool may be given a request that a pool has begun with."""
        return self._has_fallback or (bool(self.replaceable) and whole(pool) in self.replaceable)

    def _replaceable_calls(self) -> Iterator[Batch]:
        for pool in self.replaceable:
            for part in self.parts_of(pool):
                yield from [batch for batch in self._engine.running_calls(part) if not batch.handed_over]

    def _overdue_at(self, batch: Batch) -> float:
        other = self.replaceable[whole(batch.model_id)]
        return overdue_at(batch, self._engine.profiles.of(batch.model_id, batch.replica), self._profile_of(other))

    def _profile_of(self, pool: str) -> LatencyProfile:
        """Returns what is known of a pool's latency, by the replica with the most calls."""
        keys = [(part, replica) for part in self.parts_of(pool) for replica in self._dispatcher.replicas(part)]
        return max((self._engine.profiles.of(*key) for key in keys), key=lambda profile: profile.calls)

    def _hand_over(self, batch: Batch, now: float) -> None:
        """Has the requests of a call answered by another pool, and all that waits behind it."""
        pool = whole(batch.model_id)
        other = self.replaceable[pool]
        logger.warning(
            "model %s: a call has not ended after %.0f ms; %s answers its requests (%d), and its robots for a while",
            pool,
            (now - batch.started_at) * 1e3,
            other,
            len(batch.requests),
        )
        self._overdue.add(pool)
        version, router = self._version_of(pool), self._routers.get(self.model_of(pool))
        if version is not None and router is not None:
            router.leave(version, now)  # else they would change back and forth, as it is slow now and then
        self.on_overdue(batch, lambda request: self._place(request, other))
        self._route_anew()  # then: what waits is newer

    def note_late_end(self, batch: Batch) -> None:
        """Notes the end of a call that was handed over: its pool is asked again, if no other such call runs."""
        pool = whole(batch.model_id)
        if not any(one.handed_over for part in self.parts_of(pool) for one in self._engine.running_calls(part)):
            self._overdue.discard(pool)
            self._route_anew()

    def due_at(self) -> float | None:
        """Returns when `expire` next has something to do; None: not by itself."""
        times = [super().due_at(), *map(self._overdue_at, self._replaceable_calls())]
        return min((at for at in times if at is not None and at < math.inf), default=None)

    def expire(self, now: float) -> None:
        """Hands over calls that are overdue, and does what `Routes` does."""
        super().expire(now)
        for batch in list(self._replaceable_calls()):
            if whole(batch.model_id) in self.replaceable and self._overdue_at(batch) <= now:
                self._hand_over(batch, now)
