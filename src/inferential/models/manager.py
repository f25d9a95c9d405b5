"""The models of a server: what each is at, which pool answers a request, and what becomes of those that must wait.

It runs on the server's event loop and reads the clock where it is called from outside; the parts that it asks decide.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from inferential.dispatch.base import REPLICA_LOST, Dispatcher, DispatchResult
from inferential.models.catalog import Plan, plans_of
from inferential.models.conditions import Transition
from inferential.models.holding import failing_refusal
from inferential.models.lineup import Lineup, Pool
from inferential.models.outcomes import compare, outcomes_of
from inferential.models.placement import Placement, whole
from inferential.models.probes import Probes
from inferential.models.readiness import Readiness
from inferential.models.routing import Router
from inferential.models.trials import Outcome, Trials
from inferential.replica.condition import Condition, ModelState
from inferential.scheduler.request import QUEUED, InferenceRequest, Refusal, family_of
from inferential.scheduler.running import Batch, Capacity

if TYPE_CHECKING:
    from inferential.config.schema import ModelConfig, ModelsConfig
    from inferential.scheduler.engine import Engine

logger: logging.Logger = logging.getLogger("inferential.models")


class ModelManager(Readiness):
    """What a server does about its models while it runs.

    Args:
        dispatcher: the backend.
        engine: where requests wait.
        capacity: returns how much a pool takes.
        model_ids: returns the ids of the models that are served; None if every id may be one.
        on_state: called with model id and state whenever a model comes to another state.
        ttl_s: returns how long a request may wait at most.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        engine: Engine,
        capacity: Callable[[str], Capacity],
        model_ids: Callable[[], Collection[str] | None],
        on_state: Callable[[str, str], None],
        ttl_s: Callable[[], float],
        on_difference: Callable[[str, list[float]], None] = lambda model_id, apart: None,
        clients_lately: Callable[[str], Collection[str]] = lambda model_id: (),
    ) -> None:
        super().__init__(dispatcher, engine, capacity, on_state, ttl_s)
        self._model_ids = model_ids
        self.on_work: Callable[[], None] = lambda: None
        """Called when the server may have something to dispatch."""
        self._on_difference: Callable[[str, list[float]], None] = on_difference
        self._clients_lately = clients_lately
        self.build: Callable[[str, ModelConfig], Any] | None = None
        """Makes what a dispatcher registers of a model's settings; None: the models are the dispatcher's own."""
        self.trials: Trials = Trials()
        self.lineup: Lineup = Lineup(self, lambda text: logger.info("%s", text))
        self._wanted: dict[str, Plan] = {}  # as configured, whatever was taken back
        self._routers: dict[str, Router] = {}
        self._routes: dict[str, str] = {}  # of models whose requests all go to one pool
        self._placement = Placement()
        self._stateful: frozenset[str] = frozenset()  # pools whose replicas keep state of robots
        self.changing: bool = False
        """Whether `settle` may have something to do."""
        self.routes: bool = False
        """Whether requests may go to a pool that is not named as their model is."""
        self._probes = Probes(dispatcher, engine, self._on_probed, self._on_compared)

    # The models that there should be

    @property
    def managed(self) -> bool:
        """Whether the models are those of the configuration."""
        return self.build is not None

    def model_ids(self) -> list[str]:
        """Returns the ids of the models of the configuration."""
        return list(self.lineup.plans)

    def configure(self, config: ModelsConfig) -> None:
        """Takes the models of a configuration; what has changed is loaded anew, and takes over when it is ready.

        Raises:
            ValueError: settings of a model do not fit its target; nothing is changed then.
        """
        for model_id, known in config.known.items():
            self.trials.limit(model_id, known.breaker.failures, known.breaker.pause_ms / 1e3)
        if self.build is None:
            return
        plans = plans_of(config)
        for model_id, plan in plans.items():
            for wanted in plan.versions.values():
                self.build(model_id, wanted.settings)  # to see that it can be
        former, self._wanted = self._wanted, dict(plans)
        for model_id, plan in self._wanted.items():
            anew = model_id in former and former[model_id] != plan
            self.trials.begin(model_id, plan, anew=anew)
            aborted = [version for one, version in self.trials.aborted if one == model_id]
            plans[model_id] = plan.without(aborted)
        for model_id in former.keys() - plans.keys():
            self.trials.forget(model_id)
            self._routers.pop(model_id, None)
        self.lineup.apply(plans)
        self.refresh()
        self.settle()

    # What the lineup asks of its backend

    def load(self, pool: Pool) -> None:
        """Begins to load a pool."""
        assert self.build is not None
        if pool.version:
            self._dispatcher.name_version(pool.pool_id, pool.version)
        elif pool.generation > 1:
            self._dispatcher.name_version(pool.pool_id, f"#{pool.generation}", unless_said=True)
        self._dispatcher.register_model(pool.pool_id, self.build(pool.model_id, pool.wanted.settings))

    def end(self, pool: Pool) -> None:
        """Ends a pool that has nothing to do any more."""
        self._dispatcher.unregister_model(pool.pool_id)
        self.trials.drop_pool(pool.pool_id)
        self._placement.forget_pool(pool.pool_id)
        for replica in self._engine.profiles.replicas(pool.pool_id):
            self._engine.profiles.forget(pool.pool_id, replica)

    def is_ready(self, pool_id: str) -> bool:
        """Returns whether a pool answers."""
        return self._conditions.knows(pool_id) and self._conditions.of(pool_id).answers

    def is_idle(self, pool_id: str) -> bool:
        """Returns whether no request waits for or runs on a pool."""
        parts = [pool_id, *self._placement.parts(pool_id)]
        return not any(self._engine.waiting(part) or self._engine.inflight(part) for part in parts)

    def settle(self) -> None:
        """Lets versions take over that are ready, and ends what has drained."""
        self.lineup.settle()
        self._route_anew()
        self.changing = self.lineup.changing

    def _on_changes(self) -> None:
        known = self._stateful
        self._stateful = frozenset(pool for pool in self.pools() if pool in known or self._dispatcher.keeps_state(pool))
        if new := self._stateful - known:
            self._engine.move(
                lambda request: self._place(request, request.pool) if request.pool in new else None, time.monotonic()
            )
        if self.managed:
            self.settle()
        else:
            self.routes = bool(self._stateful)

    def _route_anew(self) -> None:
        """Works out anew which pools answer, after they have changed."""
        self._routes = {}
        now = time.monotonic()
        for model_id, plan in self.lineup.plans.items():
            active = self.lineup.active[model_id]
            trials = {version: one for version, one in plan.trials.items() if version != active}
            pool = self.lineup.pool(model_id)
            if not trials:
                self._routers.pop(model_id, None)
                if pool is not None and pool != model_id:
                    self._routes[model_id] = pool
                continue
            router = self._routers.get(model_id)
            if router is None:
                router = self._routers[model_id] = Router(active, trials)
            elif router.active != active or router.trials != trials:
                router.configure(active, trials)
            pools = {version: self.lineup.pool(model_id, version) for version in trials}
            ready = [version for version, one in pools.items() if one is not None and self.is_ready(one)]
            router.offer(ready)
            gone = [one for version, one in pools.items() if one is not None and version not in ready]
            if pool is not None:
                self._move(gone, pool, now)
        for pool in self.unready:
            self._leave(pool, now)
        self.routes = bool(self._routes or self._routers or self._stateful or (self.unready and self.managed))

    def _leave(self, pool: str, now: float) -> None:
        """Has what waits for a pool that is not to be asked answered by its model's fallback, or refused."""
        other = self._fallback(pool)
        if other is not None:
            self._move([pool], other, now)
        elif self._conditions.is_overridden(pool):
            for request in self._engine.requests():
                if request.pool == pool and request.state is QUEUED:
                    self._engine.refuse(request, failing_refusal(request.model_id, self._conditions.of(pool), now), now)

    def _move(self, pools: Sequence[str], other: str, now: float) -> None:
        former = {
            part
            for pool in pools
            if pool != other
            for part in (pool, *self._placement.parts(pool))
            if self._engine.waiting(part)
        }
        if not former:
            return

        def move(request: InferenceRequest) -> None:
            if request.pool in former:
                self._place(request, other)

        self._engine.move(move, now)

    def _place(self, request: InferenceRequest, pool: str) -> None:
        """Gives a waiting request to a pool, or to the replica of it that has its robot's state."""
        request.keeps_state = pool in self._stateful
        request.pool = self._part(pool, request.client_id) if request.keeps_state else pool
        if request.keeps_state:
            request.pace_s = math.inf

    def _part(self, pool: str, client_id: str) -> str:
        return self._placement.place(pool, client_id, self._dispatcher.replicas(pool))

    def _fallback(self, pool: str) -> str | None:
        plan = self.lineup.plans.get(family_of(pool))
        if plan is None or plan.fallback is None:
            return None
        other = self.lineup.pool(plan.fallback)
        return other if other is not None and other not in self.unready else None

    def route(
        self, model_id: str, client_id: str, client_type: str, *, episode: int, between_chunks: bool, now: float
    ) -> str:
        """Returns the pool that a robot's next request goes to; the arguments are those of `Router.version_of`."""
        router = self._routers.get(model_id)
        if router is None:
            pool = self._routes.get(model_id, model_id)
        else:
            version = router.version_of(client_id, client_type, episode=episode, between_chunks=between_chunks, now=now)
            pool = self.lineup.pool(model_id, version) or model_id
        if pool in self.unready:
            pool = self._fallback(pool) or pool
        if pool in self._stateful:
            return self._part(pool, client_id)
        return pool

    def keeps_state(self, pool: str) -> bool:
        """Returns whether a pool that `route` gave is a replica of a model that keeps state."""
        return whole(pool) in self._stateful

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

    # What becomes of requests

    def note_call(self, batch: Batch, results: Sequence[DispatchResult], now: float) -> None:
        """Counts the outcomes of a call: for its version's trial, and for its breaker."""
        if not self.trials.observe and all(one.refusal is None for one in results):
            return
        pool = whole(batch.model_id) if self._stateful else batch.model_id
        model_id = family_of(pool)
        plan = self.lineup.plans.get(model_id)
        is_tried = plan is not None and bool(plan.trials)
        if not is_tried and self.trials.breaker(pool) is None and all(one.refusal is None for one in results):
            if plan is not None and plan.shadow is not None and not self._engine.waiting():
                self._shadow(model_id, plan, results)
            return
        outcomes = outcomes_of(results, now)
        if plan is not None and is_tried:
            self._note_trial(model_id, plan, pool, outcomes)
            if plan.shadow is not None and not self._engine.waiting():
                self._shadow(model_id, plan, results)
        lost = any(one.refusal is not None and one.refusal.cause == REPLICA_LOST for one in results)
        if not lost and self.trials.note_pool(pool, model_id, outcomes, now, lambda: self._clients_lately(model_id)):
            failed = [one.request for one in results if one.refusal is not None]
            self._open(pool, failed[-1], now)

    def _note(self, change: Transition) -> None:
        super()._note(change)
        pool = next((one for one in self.lineup.pools() if one.pool_id == change.pool), None)
        if change.went_down and pool is not None and self.lineup.role(pool) == "rollout":
            self._take_back(pool.model_id, pool.version, change.current.why)

    def _take_back(self, model_id: str, version: str, why: str) -> None:
        """Ends a trial, if it may be ended: its robots and their requests go to the active version."""
        plan = self.lineup.plans[model_id]
        if plan.limits is None:
            return
        logger.error("model %s: version %s is taken back: %s", model_id, version, why)
        self.trials.aborted[model_id, version] = why
        former, active = self.lineup.pool(model_id, version), self.lineup.pool(model_id)
        self._on_state(former or model_id, "aborted")
        self.lineup.plans[model_id] = plan.without([version])
        if former is not None and active is not None:
            self._move([former], active, time.monotonic())
        self.settle()

    def _note_trial(self, model_id: str, plan: Plan, pool: str, outcomes: Sequence[Outcome]) -> None:
        version = next((one.version for one in self.lineup.pools() if one.pool_id == pool), None)
        if version is None:
            return
        why = self.trials.note(model_id, version, plan, outcomes, self.lineup.active[model_id])
        if why is not None:
            self._take_back(model_id, version, why)

    def second_chance(self, request: InferenceRequest, refusal: Refusal) -> bool:
        """Returns whether a request that its pool has failed is to be tried on another one, which it has then."""
        plan = self.lineup.plans.get(request.model_id)
        if plan is None or request.keeps_state:
            return False  # what a model with state has begun with is not run again
        active = self.lineup.pool(request.model_id)
        other = active if request.pool != active and family_of(request.pool) == request.model_id else None
        if other is None and request.pool in self.unready:
            other = self._fallback(request.pool)
        if other is None or other == request.pool or other in self.unready:
            return False
        request.pool = other
        request.replicas_lost = 0
        return True

    def _open(self, pool: str, failed: InferenceRequest, now: float) -> None:
        breaker = self.trials.breaker(pool)
        assert breaker is not None
        self._conditions.override(pool, Condition(ModelState.FAILING, now, breaker.why))
        logger.error("model %s is not asked for now: %s", pool, breaker.why)
        self._on_state(pool, ModelState.FAILING.value)
        self._probes.remember(pool, failed)
        self._sort()
        self._route_anew()

    def _on_probed(self, pool: str, error: str | None) -> None:
        breaker = self.trials.breaker(pool)
        if breaker is None:
            return
        breaker.probe_ended(time.monotonic(), ok=error is None, why=error or "")
        if error is None:
            self._conditions.override(pool, None)
            logger.info("model %s answers again", pool)
            self._on_state(pool, ModelState.READY.value)
            self._sort()
            self._route_anew()
        self.on_work()

    def _shadow(self, model_id: str, plan: Plan, results: Sequence[DispatchResult]) -> None:
        pool = None if plan.shadow is None else self.lineup.pool(model_id, plan.shadow)
        answered = next((one for one in results if one.values is not None), None)
        if pool is None or answered is None or answered.request.pool == pool or not self.is_ready(pool):
            return
        if not self._engine.inflight(pool):
            self._probes.shadow(pool, answered)

    def _on_compared(self, pool: str, active: DispatchResult, shadow: DispatchResult) -> None:
        comparison = self.trials.comparison(family_of(pool))
        apart = None if comparison is None else compare(comparison, active, shadow)
        if apart is not None:
            self._on_difference(family_of(pool), apart)

    def due_at(self) -> float | None:
        """Returns when `expire` next has something to do; None: not by itself."""
        times = [super().due_at(), *(one.probe_at() for one in self.trials.open_breakers().values())]
        return min((at for at in times if at is not None), default=None)

    def expire(self, now: float) -> None:
        """Begins the probes that are due, and refuses requests that have waited until their deadlines."""
        for pool in self.trials.begin_probes(now):
            self._probes.probe(pool)
        super().expire(now)

    def pools(self) -> list[str]:
        """Returns all pools that the server knows of, sorted."""
        if self.managed:
            return sorted(pool.pool_id for pool in self.lineup.pools())
        known = self._model_ids()
        return sorted(self._engine.profiles.models() if known is None else known)

    def pool_of(self, model_id: str) -> str:
        """Returns the pool that answers for a model."""
        return self.lineup.pool(model_id) or model_id
