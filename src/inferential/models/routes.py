"""Which pool a request goes to: by its robot's version, by the state that a replica keeps, or as its own cannot answer.

It runs on the server's event loop and reads the clock where it is called from outside; the parts that it asks decide.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from inferential.dispatch.outcomes import REPLICA_LOST
from inferential.models.holding import failing_refusal, gone_refusal
from inferential.models.lineup import Lineup, Pool
from inferential.models.placement import SEPARATOR, Placement, whole
from inferential.models.readiness import Readiness, Surroundings
from inferential.models.routing import PATIENCE_S, STATE_PATIENCE_S, Router
from inferential.replica.condition import HUNG_AFTER_S
from inferential.scheduler.request import QUEUED, InferenceRequest, Refusal, family_of, is_of

logger: logging.Logger = logging.getLogger("inferential.models")

ABORTED_DRAINS_S = 1.0
"""So long the calls of a version that was taken back may still take; then they are run again by the active one."""


class Routes(Readiness):
    """The pools that answer, and which of them each robot has."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        self.lineup: Lineup = Lineup(self, lambda text: logger.info("%s", text))
        self._routers: dict[str, Router] = {}
        self._routes: dict[str, str] = {}  # of models whose requests all go to one pool
        self._placement = Placement()
        self._stateful: frozenset[str] = frozenset()  # pools whose replicas keep state of robots
        self._ordered: frozenset[str] = frozenset()  # models whose requests may go to such a pool
        self._leaving: dict[tuple[str, str], float] = {}  # versions that only robots in a chunk still have, until when
        self._drains: dict[str, float] = {}  # pools that drain, by when they end whatever runs
        self._steady = False
        self._unsettled = False
        self.changing: bool = False
        """Whether `settle` may have something to do."""
        self.routes: bool = False
        """Whether requests may go to a pool that is not named as their model is."""

    @property
    def managed(self) -> bool:
        """Whether the models are those of the configuration."""
        raise NotImplementedError

    def is_taken_back(self, model_id: str, version: str) -> bool:
        """Returns whether a version was taken back."""
        raise NotImplementedError

    # What the lineup asks of its backend

    def load(self, pool: Pool) -> None:
        """Begins to load a pool."""
        raise NotImplementedError

    def end(self, pool: Pool) -> None:
        """Ends a pool that has nothing to do any more, or whose time to drain is over."""
        raise NotImplementedError

    def is_ready(self, pool_id: str) -> bool:
        """Returns whether a pool answers."""
        return self._conditions.knows(pool_id) and self._conditions.of(pool_id).answers

    def is_idle(self, pool_id: str) -> bool:
        """Returns whether no request waits for or runs on a pool, or it has had its time to end them."""
        return not self._is_busy(pool_id) or self._drains.get(pool_id, math.inf) <= time.monotonic()

    def _is_busy(self, pool_id: str) -> bool:
        parts = self.parts_of(pool_id)
        return any(self._engine.waiting(part) or self._engine.inflight(part) for part in parts)

    def is_used(self, model_id: str, version: str) -> bool:
        """Returns whether robots still play what a version has answered, which they did not leave yet."""
        router = self._routers.get(model_id)
        key = model_id, version
        if router is None or not router.has(version) or self.is_taken_back(model_id, version):
            self._leaving.pop(key, None)
            return False
        now = time.monotonic()
        return now < self._leaving.setdefault(key, now + self._patience_s(model_id, version))

    def _patience_s(self, model_id: str, version: str) -> float:
        return STATE_PATIENCE_S if self.lineup.pool(model_id, version) in self._stateful else PATIENCE_S

    def settle(self) -> None:
        """Lets versions take over that are ready, and ends what has drained."""
        if self._steady:  # it loads or ends pools, of which the backend tells before all is done
            self._unsettled = True
            return
        with self._held():
            self._settle()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Has `settle` wait until what is done within is done."""
        self._steady, self._unsettled = True, False
        try:
            yield
        finally:
            self._steady = False
        while self._unsettled:
            self.settle()

    def _settle(self) -> None:
        self.lineup.settle()
        self._route_anew()
        now = time.monotonic()
        self._leaving = {key: until for key, until in self._leaving.items() if now < until}
        draining = {pool.pool_id: pool for pool in self.lineup.draining()}
        self._drains = {
            pool_id: self._drains.get(pool_id, now + self._drain_s(pool)) for pool_id, pool in draining.items()
        }
        self.changing = self.lineup.changing

    def _drain_s(self, pool: Pool) -> float:
        return ABORTED_DRAINS_S if self.is_taken_back(pool.model_id, pool.version) else HUNG_AFTER_S

    def parts_of(self, pool_id: str) -> list[str]:
        """Returns a pool, and those of its replicas that keep state of robots."""
        return [pool_id, *self._placement.parts(pool_id)]

    def load_of(self, pool_id: str) -> tuple[int, int]:
        """Returns how many requests wait for a pool, and how many calls of it run, with those of its replicas."""
        parts = self.parts_of(pool_id)
        return sum(map(self._engine.waiting, parts)), sum(map(self._engine.inflight, parts))

    def model_of(self, pool: str) -> str:
        """Returns the model that a pool is of."""
        return next((one.model_id for one in self.lineup.pools() if is_of(pool, one.pool_id)), family_of(pool))

    def _version_of(self, pool: str) -> str | None:
        return next((one.version for one in self.lineup.pools() if one.pool_id == pool), None)

    def pools_of(self, model_id: str) -> list[str]:
        """Returns all pools of a model, with those of replicas; the model's own where it has no other."""
        pools = [pool.pool_id for pool in self.lineup.pools() if pool.model_id == model_id] or [model_id]
        return [part for pool in pools for part in self.parts_of(pool)]

    def _on_changes(self) -> None:
        known = self._stateful
        self._stateful = frozenset(pool for pool in self.pools() if pool in known or self._dispatcher.keeps_state(pool))
        if self._stateful != known:
            self._find_ordered()
        if new := self._stateful - known:

            def move(request: InferenceRequest) -> None:
                if request.pool in new:
                    self._place(request, request.pool)
                else:
                    self.keep_order(request)

            self._engine.move(move, time.monotonic())
        if self.managed:
            self.settle()
        else:
            self.routes = bool(self._stateful)
            self._leave_unready(time.monotonic())

    def _find_ordered(self) -> None:
        ordered = {self.model_of(pool) if self.managed else pool for pool in self._stateful}
        for model_id in self.lineup.plans if ordered else ():
            if ordered.intersection(self.lineup.fallbacks(model_id)):
                ordered.add(model_id)
        self._ordered = frozenset(ordered)

    def keep_order(self, request: InferenceRequest) -> None:
        """Has a new request run after those of its robot before it, if a pool of its model keeps state."""
        if request.model_id in self._ordered:
            request.in_order, request.pace_s = _robot(request.model_id, request.client_id), math.inf
            request.keeps_state = whole(request.pool) in self._stateful

    def _route_anew(self) -> None:
        """Works out anew which pools answer, after they have changed."""
        self._routes = {}
        self._find_ordered()
        now = time.monotonic()
        for model_id, plan in self.lineup.plans.items():
            active = self.lineup.active[model_id]
            trials = {version: one for version, one in plan.trials.items() if version != active}
            pool = self.lineup.pool(model_id)
            router = self._routers.get(model_id)
            if router is None and not trials and plan.active == active:
                if pool is not None and pool != model_id:
                    self._routes[model_id] = pool
                continue
            if router is None:
                router = self._routers[model_id] = Router(active, trials)
            elif router.active != active or router.trials != trials:
                router.configure(active, trials)
            others = {version: self.lineup.pool(model_id, version) for version in self.lineup.versions(model_id)}
            ready = {version for version, one in others.items() if one is not None and self._is_asked(one)}
            router.offer(ready)
            if pool is not None:
                gone = [one for version, one in others.items() if one is not None and version not in ready]
                self._move([one for one in gone if one != pool], pool, now)
            if not trials and plan.active == active and not set(router.counts()) - {active}:
                del self._routers[model_id]  # every robot has come over
                if pool is not None and pool != model_id:
                    self._routes[model_id] = pool
        for model_id in self._routers.keys() - self.lineup.plans.keys():
            del self._routers[model_id]
        self._leave_unready(now)
        for former in self.lineup.draining():
            self._empty(former, now)
        self.routes = bool(self._routes or self._routers or self._stateful or (self.unready and self.managed))

    def _is_asked(self, pool_id: str) -> bool:
        """Returns whether robots are to ask a pool that has a place in a model."""
        return self.is_ready(pool_id)

    def _leave_unready(self, now: float) -> None:
        for pool in self.unready:
            self._leave(pool, now)

    def _leave(self, pool: str, now: float) -> None:
        """Has what waits for a pool that is not to be asked answered by its model's fallback, or refused."""
        other = self._fallback(pool)
        if other is not None:
            self._move([pool], other, now)
        elif self._conditions.is_hopeless(pool):
            for request in self._waiting_for(pool):
                self._engine.refuse(request, failing_refusal(request.model_id, self._conditions.of(pool), now), now)

    def _empty(self, former: Pool, now: float) -> None:
        """Has what waits for a pool that ends, and cannot answer it, answered by what has taken its place."""
        pool_id = former.pool_id
        if self._is_asked(pool_id) and self._drains.get(pool_id, math.inf) > now:
            return  # it answers what it has
        current = self.lineup.pool(former.model_id)
        if current is not None:
            self._move([pool_id], current, now)
            return
        for request in self._waiting_for(pool_id):
            self._engine.refuse(request, gone_refusal(request.model_id), now)

    def refresh(self) -> None:
        """As in `Readiness`; what waits for a replica that has gone is answered by the one that its robot has now."""
        super().refresh()
        for pool in self._stateful:
            up = self._dispatcher.replicas(pool)
            if up[0]:  # else it has only one, which comes back
                parts = self._placement.parts(pool)
                gone = [one for one in parts if one.rpartition(SEPARATOR)[2] not in up]
                self._move(gone, pool, time.monotonic())
                for part in gone:
                    if not self._engine.inflight(part):
                        self._placement.forget_part(part)

    def _waiting_for(self, pool: str) -> Iterator[InferenceRequest]:
        parts = {part for part in self.parts_of(pool) if self._engine.waiting(part)}
        if parts:
            yield from [one for one in self._engine.requests() if one.pool in parts and one.state is QUEUED]

    def _move(self, pools: Sequence[str], other: str, now: float) -> None:
        former = {part for pool in pools if pool != other for part in self.parts_of(pool) if self._engine.waiting(part)}
        if not former:
            return

        def move(request: InferenceRequest) -> None:
            if request.pool in former:
                self._place(request, other)

        self._engine.move(move, now)

    def _place(self, request: InferenceRequest, pool: str) -> None:
        """Gives a waiting request to a pool, or to the replica of it that has its robot's state."""
        if self._stateful:
            self._leave_state(request.model_id, request.client_id, pool)
        request.pool = self._part(pool, request.client_id) if pool in self._stateful else pool
        request.keeps_state = False
        self.keep_order(request)

    def _part(self, pool: str, client_id: str) -> str:
        return self._placement.place(pool, client_id, self._dispatcher.replicas(pool))

    def _fallback(self, pool: str) -> str | None:
        """Returns the pool that answers for one that cannot: of its model's fallback, or of that one's, and so on."""
        for model_id in self.lineup.fallbacks(self.model_of(pool)):
            other = self.lineup.pool(model_id)
            if other is not None and other not in self.unready:
                return other
        return None

    def route(
        self, model_id: str, client_id: str, client_type: str, *, episode: int, between_chunks: bool, now: float
    ) -> str:
        """Returns the pool that a robot's next request goes to; the arguments are those of `Router.version_of`."""
        router = self._routers.get(model_id)
        if router is None:
            pool = self._routes.get(model_id, model_id)
        else:
            patience_s = PATIENCE_S
            if self._stateful:
                own = self.lineup.pool(model_id, router.version_now(client_id) or router.active)
                if own in self._stateful:
                    between_chunks, patience_s = not self._placement.knows(own, client_id), STATE_PATIENCE_S
            version = router.version_of(
                client_id,
                client_type,
                episode=episode,
                between_chunks=between_chunks,
                now=now,
                patience_s=patience_s,
            )
            pool = self.lineup.pool(model_id, version) or self.lineup.pool(model_id) or model_id
        if pool in self.unready:
            pool = self._fallback(pool) or pool
        if not self._stateful:
            return pool
        self._leave_state(model_id, client_id, pool)
        return self._part(pool, client_id) if pool in self._stateful else pool

    def _leave_state(self, model_id: str, client_id: str, pool: str) -> None:
        """Ends a robot's session where another pool answers it now: what it comes back to would not be its state."""
        former = self._placement.moved(model_id, client_id, pool if pool in self._stateful else None)
        if former is not None:
            robot = _robot(model_id, client_id)  # what waits there would find no state any more, and goes with it
            self._engine.move_robot(robot, lambda request: self._place(request, pool), time.monotonic())
            self._dispatcher.leave_session(former, client_id)

    def robots(self, model_id: str) -> dict[str, int] | None:
        """Returns how many robots each version answers; None where one answers all."""
        router = self._routers.get(model_id)
        return None if router is None else router.counts()

    def version_for(self, model_id: str, client_id: str) -> str:
        """Returns the version of a model that answers a robot; "" where it has none, or that is not known here."""
        router = self._routers.get(model_id)
        if router is not None and (seen := router.seen(client_id)) is not None:
            return seen[0]
        plan = self.lineup.plans.get(model_id)
        return "" if plan is None else plan.active

    def forget_client(self, client_id: str) -> None:
        """Forgets a robot that is gone."""
        for router in self._routers.values():
            router.forget(client_id)
        if self._stateful:
            self._placement.forget_client(client_id)
            self._dispatcher.end_session(client_id)

    def second_chance(self, request: InferenceRequest, refusal: Refusal) -> bool:
        """Returns whether a request that its pool has failed is to be tried on another one, which it has then."""
        if request.keeps_state:
            if refusal.cause == REPLICA_LOST:  # it may be tried again, by the replica that its robot has now
                self._place(request, self._pool_now(request))
            return False  # what a model with state has begun with is not run again
        plan = self.lineup.plans.get(request.model_id)
        if plan is None:
            return False
        active = self.lineup.pool(request.model_id)
        other = active if request.pool != active and is_of(request.pool, request.model_id) else None
        if other is None and request.pool in self.unready:
            other = self._fallback(request.pool)
        if other is None or other == request.pool or other in self._conditions.down:
            return False
        self._place(request, other)
        request.replicas_lost = 0
        if other in self.unready:
            self.hold(request, explicit=False)  # it loads, in place of the one that has ended
        return True

    def _pool_now(self, request: InferenceRequest) -> str:
        """Returns the pool that its robot's next request would go to, if its robot does not change its version."""
        router = self._routers.get(request.model_id)
        version = None if router is None else router.version_now(request.client_id)
        pool = self.lineup.pool(request.model_id, version) or self.lineup.pool(request.model_id)
        if pool is None:  # the models are not those of a configuration, or this one is served no longer
            return whole(request.pool)
        return (self._fallback(pool) or pool) if pool in self.unready else pool

    def due_at(self) -> float | None:
        """Returns when `expire` next has something to do; None: not by itself."""
        times = [super().due_at(), *self._drains.values(), *self._leaving.values()]
        return min((at for at in times if at is not None), default=None)

    def expire(self, now: float) -> None:
        """Ends what has had its time to drain, and refuses requests that have waited until their deadlines."""
        if self.changing:
            self.settle()
        super().expire(now)

    def pool_of(self, model_id: str) -> str:
        """Returns the pool that answers for a model."""
        return self.lineup.pool(model_id) or model_id


def _robot(model_id: str, client_id: str) -> tuple[str, str]:
    """Returns what requests of a robot that run in order have in common."""
    return client_id, f"{model_id}{SEPARATOR}"
