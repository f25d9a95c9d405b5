"""Which models answer, who waits for one, and which requests wait for one that does not.

It runs on the server's event loop and reads the clock where it is called from outside; the parts that it asks decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferential.dispatch.base import Dispatcher
from inferential.models.conditions import Conditions, Transition
from inferential.models.holding import Holding, failing_refusal, loading_refusal
from inferential.models.placement import part_of
from inferential.replica.condition import Condition, ModelState
from inferential.replica.outcomes import ModelLoadError
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, whole_pool
from inferential.scheduler.running import Capacity

if TYPE_CHECKING:
    from inferential.scheduler.engine import Engine

logger: logging.Logger = logging.getLogger("inferential.models")

_LEVELS = {ModelState.FAILING: logging.ERROR, ModelState.HUNG: logging.ERROR}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What models are managed amid.

    Attributes:
        dispatcher: the backend.
        engine: where requests wait.
        capacity: returns how much a pool takes.
        on_state: called with model id and state whenever a model comes to another state.
        ttl_s: returns how long a request may wait at most.
    """

    dispatcher: Dispatcher
    engine: Engine
    capacity: Callable[[str], Capacity]
    on_state: Callable[[str, str], None]
    ttl_s: Callable[[], float]


class Readiness(ABC):
    """What each pool is at."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._dispatcher = surroundings.dispatcher
        self._engine = surroundings.engine
        self._capacity = surroundings.capacity
        self._on_state = surroundings.on_state
        self._ttl_s = surroundings.ttl_s
        self._conditions = Conditions()
        self._holding = Holding()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._settling: list[asyncio.Future[None]] = []
        self._starting = False  # a replica loads or warms up
        self._hung: dict[str, float] = {}  # pools whose calls do not end, by when the first of them began
        self.unready: frozenset[str] = frozenset()
        """Pools that do not answer now; requests for them are given to `hold`."""

    @abstractmethod
    def pools(self) -> list[str]:
        """Returns all pools that the server knows of, sorted."""

    @abstractmethod
    def pool_of(self, model_id: str) -> str:
        """Returns the pool that answers for a model."""

    def _on_changes(self) -> None:  # noqa: B027 (models that never change)
        """Does what follows when pools have changed."""

    def condition(self, model_id: str) -> Condition:
        """Returns what a model is at."""
        return self._conditions.of(self.pool_of(model_id))

    def condition_of(self, pool: str) -> Condition:
        """Returns what a pool is at."""
        return self._conditions.of(pool)

    def refresh(self) -> None:
        """Looks at what the replicas are at; to be called whenever the backend has changed."""
        now = time.monotonic()
        replicas = self._dispatcher.conditions()
        self._starting = any(one.starts for group in replicas.values() for one in group)
        answering = {pool: self._capacity(pool).max_inflight > 0 for pool in self.pools()}
        changes = self._conditions.update(replicas, answering, now, self._hung)
        for change in changes:
            self._note(change)
        self._sort()
        if changes:
            self._on_changes()

    def _sort(self) -> None:
        self.unready = self._conditions.starting | self._conditions.down
        settling, self._settling = self._settling, []
        for waiter in settling:
            if not waiter.done():
                waiter.set_result(None)
        for pool in [pool for pool in self._waiters if self._conditions.of(pool).answers]:
            for waiter in self._waiters.pop(pool):
                if not waiter.done():
                    waiter.set_result(None)

    def _note(self, change: Transition) -> None:
        pool, current = change.pool, change.current
        if current.answers and (change.former is None or not change.former.answers):
            self._load_profile(pool)
        if change.former is None and current.state is ModelState.STOPPED:
            return  # it is about to be started
        text = f"model {pool} is {current.state.value}" + (f": {current.why}" if current.why else "")
        logger.log(logging.DEBUG if change.logged else _LEVELS.get(current.state, logging.INFO), "%s", text)
        self._on_state(pool, current.state.value)

    def _load_profile(self, pool: str) -> None:
        """Has a pool's profile begin with what its warm-up measured, unless calls of robots were measured already."""
        measured, replicas = self._dispatcher.measured(pool), self._dispatcher.replicas(pool)
        parts = [part_of(pool, one) for one in replicas] if self._dispatcher.keeps_state(pool) else [pool]
        profiles = [self._engine.profiles.of(one, name) for one in parts for name in self._dispatcher.replicas(one)]
        if measured and not any(profile.known for profile in profiles):
            for profile in profiles:
                for rows, latency_s in measured:
                    profile.load(rows, latency_s, latency_s)

    async def ready(self, model_id: str) -> None:
        """Returns when a model answers; at once where it does."""
        pool = self.pool_of(model_id)
        if self._conditions.of(pool).answers:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(pool, []).append(waiter)
        await waiter

    async def settled(self) -> list[str]:
        """Returns when no replica loads any more: the ids of the models that do not answer."""
        while self._starting:
            waiter = asyncio.get_running_loop().create_future()
            self._settling.append(waiter)
            await waiter
        return sorted(self.unready)

    def require_one(self, failed: Collection[str]) -> None:
        """Raises ModelLoadError if none of the models answers, and each has failed to load."""
        pools = self.pools()
        conditions = [self._conditions.of(pool) for pool in pools]
        if pools and all(one.state is ModelState.FAILING for one in conditions) and set(pools) <= set(failed):
            reasons = [f"model {pool!r}: {one.why}" for pool, one in zip(pools, conditions, strict=True)]
            raise ModelLoadError("\n".join(reasons))

    # Requests for models that do not answer

    def is_unready(self, request: InferenceRequest) -> bool:
        """Returns whether the pool of a request is among `unready`."""
        return whole_pool(request) in self.unready

    def refusal(self, request: InferenceRequest) -> Refusal | None:
        """Returns why a new request for a pool among `unready` is refused at once; None: it may wait."""
        pool = whole_pool(request)
        if pool not in self._conditions.down:
            return None
        if pool in self._conditions.up_before and not self._conditions.is_hopeless(pool):
            return None  # it was up, and is being started again
        return failing_refusal(request.model_id, self._conditions.of(pool), time.monotonic())

    def hold(self, request: InferenceRequest, *, explicit: bool) -> None:
        """Notes a queued request for a pool among `unready`, to be refused when its time is over.

        Args:
            request: which.
            explicit: whether its deadline follows from a latency budget that was stated.
        """
        until = request.received_at + self._ttl_s()
        if explicit and whole_pool(request) not in self._conditions.up_before and request.protocol_version >= 2:
            until = min(until, request.deadline)
        self._holding.add(request, until)

    def due_at(self) -> float | None:
        """Returns when `expire` next has something to do; None: not by itself."""
        return self._holding.due_at()

    def expire(self, now: float) -> None:
        """Refuses the requests that have waited until their deadlines for a model that is not ready."""
        for request in self._holding.expired(now, lambda one: not self.is_unready(one)):
            self._engine.refuse(request, self._why(request, now), now)

    def explain(self, request: InferenceRequest) -> None:
        """Gives a request that has expired in the queue the reason that its model was not ready, if that is so."""
        refusal = request.refusal
        if refusal is not None and refusal.kind is RefusalKind.EXPIRED and self.is_unready(request):
            request.refusal = self._why(request, time.monotonic())

    def _why(self, request: InferenceRequest, now: float) -> Refusal:
        condition = self._conditions.of(whole_pool(request))
        if condition.starts or (whole_pool(request) in self._conditions.up_before and not condition.hopeless):
            return loading_refusal(request.model_id, condition, now)
        return failing_refusal(request.model_id, condition, now)
