"""The models of a server: what each is at, which pool answers a request, and what becomes of those that must wait.

It runs on the server's event loop and reads the clock where it is called from outside; the parts that it asks decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from inferential.dispatch.base import Dispatcher
from inferential.models.conditions import Conditions, Transition
from inferential.models.holding import Holding, failing_refusal, loading_refusal
from inferential.replica.condition import Condition, ModelState
from inferential.replica.outcomes import ModelLoadError
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind

if TYPE_CHECKING:
    from inferential.scheduler.engine import Engine
    from inferential.server.capacities import Capacities

logger: logging.Logger = logging.getLogger("inferential.models")

_LEVELS = {ModelState.FAILING: logging.ERROR, ModelState.HUNG: logging.ERROR}


class AllReady:
    """What a pump goes by where nothing observes the models."""

    unready: frozenset[str] = frozenset()

    def refusal(self, request: InferenceRequest) -> Refusal | None:
        """Returns None: every model answers."""
        return None

    def hold(self, request: InferenceRequest, *, explicit: bool) -> None:
        """Does nothing."""

    def due_at(self) -> float | None:
        """Returns None: nothing is held."""
        return None

    def expire(self, now: float) -> None:
        """Does nothing."""

    def explain(self, request: InferenceRequest) -> None:
        """Does nothing."""


class ModelManager:
    """What a server does about its models while it runs.

    Args:
        dispatcher: the backend.
        engine: where requests wait.
        capacities: how much each pool takes.
        model_ids: returns the ids of the models that are served; None if every id may be one.
        on_state: called with model id and state whenever a model comes to another state.
        ttl_s: returns how long a request may wait at most.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        engine: Engine,
        capacities: Capacities,
        model_ids: Callable[[], Collection[str] | None],
        on_state: Callable[[str, str], None],
        ttl_s: Callable[[], float],
    ) -> None:
        self._ttl_s = ttl_s
        self._dispatcher = dispatcher
        self._engine = engine
        self._capacities = capacities
        self._model_ids = model_ids
        self._on_state = on_state
        self._conditions = Conditions()
        self._holding = Holding()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._settling: list[asyncio.Future[None]] = []
        self.unready: frozenset[str] = frozenset()
        """Pools that do not answer now; requests for them are given to `hold`."""

    # What each model is at

    def pools(self) -> list[str]:
        """Returns all pools that the server knows of, sorted."""
        known = self._model_ids()
        return sorted(self._engine.profiles.models() if known is None else known)

    def pool_of(self, model_id: str) -> str:
        """Returns the pool that answers for a model."""
        return model_id

    def condition(self, model_id: str) -> Condition:
        """Returns what a model is at."""
        return self._conditions.of(self.pool_of(model_id))

    def refresh(self) -> None:
        """Looks at what the replicas are at; to be called whenever the backend has changed."""
        now = time.monotonic()
        answering = {pool: self._capacities.of(pool).max_inflight > 0 for pool in self.pools()}
        for change in self._conditions.update(self._dispatcher.conditions(), answering, now):
            self._note(change)
        self._sort()

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
        text = f"model {pool} is {current.state.value}" + (f": {current.why}" if current.why else "")
        logger.log(_LEVELS.get(current.state, logging.INFO), "%s", text)
        self._on_state(pool, current.state.value)

    def _load_profile(self, pool: str) -> None:
        """Has a pool's profile begin with what its warm-up measured, unless calls of robots were measured already."""
        measured = self._dispatcher.measured(pool)
        if measured and not any(
            self._engine.profiles.of(pool, replica).known for replica in self._dispatcher.replicas(pool)
        ):
            for replica in self._dispatcher.replicas(pool):
                profile = self._engine.profiles.of(pool, replica)
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
        """Returns when no model loads for the first time any more: the ids of those that do not answer."""
        while self._conditions.starting - self._conditions.up_before:
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

    def refusal(self, request: InferenceRequest) -> Refusal | None:
        """Returns why a new request for a pool among `unready` is refused at once; None: it may wait."""
        if request.pool not in self._conditions.down or self._capacities.of(request.pool).max_inflight:
            return None
        condition = self._conditions.of(request.pool)
        if condition.state is ModelState.FAILING and request.pool in self._conditions.up_before:
            return None  # it was up, and is being started again
        return failing_refusal(request.model_id, condition, time.monotonic())

    def hold(self, request: InferenceRequest, *, explicit: bool) -> None:
        """Notes a queued request for a pool among `unready`, to be refused when its time is over.

        Args:
            request: which.
            explicit: whether its deadline follows from a latency budget that was stated.
        """
        until = request.received_at + self._ttl_s()
        if explicit and request.pool not in self._conditions.up_before and request.protocol_version >= 2:
            until = min(until, request.deadline)
        self._holding.add(request, until)

    def due_at(self) -> float | None:
        """Returns when `expire` next has something to do; None: not by itself."""
        return self._holding.due_at()

    def expire(self, now: float) -> None:
        """Refuses the requests that have waited until their deadlines for a model that is not ready."""
        if not self._holding:
            return
        for request in self._holding.expired(now, lambda pool: pool not in self.unready):
            self._engine.refuse(request, self._why(request, now), now)

    def explain(self, request: InferenceRequest) -> None:
        """Gives a request that has expired in the queue the reason that its model was not ready, if that is so."""
        refusal = request.refusal
        if refusal is not None and refusal.kind is RefusalKind.EXPIRED and request.pool in self.unready:
            request.refusal = self._why(request, time.monotonic())

    def _why(self, request: InferenceRequest, now: float) -> Refusal:
        condition = self._conditions.of(request.pool)
        if condition.starts or request.pool in self._conditions.up_before:
            return loading_refusal(request.model_id, condition, now)
        return failing_refusal(request.model_id, condition, now)
