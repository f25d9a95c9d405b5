"""The models of a server: what each is at, which pool answers a request, and what becomes of those that must wait.

It runs on the server's event loop and reads the clock where it is called from outside; the parts that it asks decide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from inferential.dispatch.base import REPLICA_LOST, DispatchResult
from inferential.models.catalog import Plan, plans_of
from inferential.models.conditions import Transition
from inferential.models.handing_over import HandingOver
from inferential.models.lineup import Pool
from inferential.models.outcomes import compare, outcomes_of
from inferential.models.placement import whole
from inferential.models.probes import Probes
from inferential.models.readiness import Surroundings
from inferential.models.trials import Outcome, Trials
from inferential.replica.condition import HUNG_AFTER_S, Condition, ModelState
from inferential.scheduler.request import InferenceRequest, Refusal, whole_pool
from inferential.scheduler.running import Batch

if TYPE_CHECKING:
    from inferential.config.schema import ModelConfig, ModelsConfig

logger: logging.Logger = logging.getLogger("inferential.models")

_REFUSAL = attrgetter("refusal")


class ModelManager(HandingOver):
    """What a server does about its models while it runs.

    Args:
        surroundings: what they are managed amid.
        model_ids: returns the ids of the models that are served; None if every id may be one.
        on_difference: called with a model and the differences of an answer in the shadow, by action dimension.
        clients_lately: returns the robots that have asked a model lately.
        expects: returns whether a robot is expected to ask, at a time, within so many seconds.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        model_ids: Callable[[], Collection[str] | None],
        on_difference: Callable[[str, list[float]], None] = lambda model_id, apart: None,
        clients_lately: Callable[[str], Collection[str]] = lambda model_id: (),
        expects: Callable[[float, float], bool] = lambda now, within_s: False,
    ) -> None:
        super().__init__(surroundings)
        self._model_ids = model_ids
        self.on_work: Callable[[], None] = lambda: None
        """Called when the server may have something to dispatch."""
        self._on_difference: Callable[[str, list[float]], None] = on_difference
        self._clients_lately = clients_lately
        self._expects = expects
        self.build: Callable[[str, ModelConfig], Any] | None = None
        """Makes what a dispatcher registers of a model's settings; None: the models are the dispatcher's own."""
        self.trials: Trials = Trials()
        self._wanted: dict[str, Plan] = {}  # as configured, whatever was taken back
        self.ended: dict[str, list[str]] = {}
        """Pools of each model that were ended: their calls are counted all the same."""
        self._probes = Probes(self._dispatcher, self._engine, self._on_probed, self._on_compared)

    # The models that there should be

    @property
    def managed(self) -> bool:
        """Whether the models are those of the configuration."""
        return self.build is not None

    def model_ids(self) -> list[str]:
        """Returns the ids of the models of the configuration."""
        return list(self.lineup.plans)

    def is_taken_back(self, model_id: str, version: str) -> bool:
        """Returns whether a version was taken back."""
        return (model_id, version) in self.trials.aborted

    def check(self, config: ModelsConfig) -> dict[str, Plan]:
        """Returns the plans of a configuration's models, each of which can be made.

        Raises:
            ValueError: settings of a model do not fit its target, or the backend cannot run it.
        """
        if self.build is None:
            return {}
        plans = plans_of(config)
        for model_id, plan in plans.items():
            for wanted in plan.versions.values():
                self._dispatcher.check_model(model_id, self.build(model_id, wanted.settings))
        return plans

    def configure(self, config: ModelsConfig) -> None:
        """Takes the models of a configuration; what has changed is loaded anew, and takes over when it is ready.

        Raises:
            ValueError: as `check`; nothing is changed then.
        """
        plans = self.check(config)
        for model_id, known in config.known.items():
            self.trials.limit(model_id, known.breaker.failures, known.breaker.pause_ms / 1e3)
        if self.build is None:
            return
        former, self._wanted = self._wanted, dict(plans)
        for model_id, plan in self._wanted.items():
            anew = model_id in former and former[model_id] != plan
            self.trials.begin(model_id, plan, anew=anew)
            aborted = [version for one, version in self.trials.aborted if one == model_id]
            plans[model_id] = plan.without(aborted)
        for model_id in former.keys() - plans.keys():
            self.trials.forget(model_id)
        with self._held():
            self.lineup.apply(plans)
            self.refresh()
        self.settle()

    # What the lineup asks of its backend

    def load(self, pool: Pool) -> None:
        """Begins to load a pool."""
        assert self.build is not None
        if pool.version:
            again = f"#{pool.generation}" if pool.generation > 1 else ""  # it is not what its name was before
            self._dispatcher.name_version(pool.pool_id, pool.version + again)
        elif pool.generation > 1:
            self._dispatcher.name_version(pool.pool_id, f"#{pool.generation}", unless_said=True)
        self._dispatcher.register_model(pool.pool_id, self.build(pool.model_id, pool.wanted.settings))

    def end(self, pool: Pool) -> None:
        """Ends a pool that has nothing to do any more, or whose time to drain is over: what runs is run elsewhere."""
        if self._is_busy(pool.pool_id):
            logger.warning("model %s: its calls do not end, and it is ended", pool.pool_id)
            self._empty(pool, time.monotonic())
            self._dispatcher.end_calls(pool.pool_id)
        self.ended.setdefault(pool.model_id, []).extend(self.parts_of(pool.pool_id))
        self._dispatcher.unregister_model(pool.pool_id)
        self.trials.drop_pool(pool.pool_id)
        self._probes.forget(pool.pool_id)
        profiles = self._engine.profiles
        for part in [one for one in profiles.models() if whole(one) == pool.pool_id]:
            for replica in profiles.replicas(part):
                profiles.forget(part, replica)
        self._placement.forget_pool(pool.pool_id)

    def _part(self, pool: str, client_id: str) -> str:
        former = self._placement.part(pool, client_id)
        part = super()._part(pool, client_id)
        if pool in self._probes.shadowed and part != former:
            self._dispatcher.leave_session(part, client_id)  # it has seen in the shadow some of what the robot sent
        return part

    # What becomes of requests

    def note_call(self, batch: Batch, results: Sequence[DispatchResult], now: float) -> None:
        """Counts the outcomes of a call: for its version's trial, and for its breaker."""
        if self._hung:
            self.look(now)
        if batch.handed_over:
            self.note_late_end(batch)
            return
        if not self.trials.observe and not any(map(_REFUSAL, results)):
            return
        pool = whole(batch.model_id) if self._stateful else batch.model_id
        model_id = self.model_of(pool)
        plan = self.lineup.plans.get(model_id)
        if plan is not None and plan.shadow is not None and pool == self.lineup.pool(model_id):
            self._shadow(model_id, plan.shadow, results, now)
        is_tried = plan is not None and bool(plan.trials)
        if not is_tried and not self.trials.any_breakers and all(one.refusal is None for one in results):
            return
        outcomes = outcomes_of(results, now)
        if plan is not None and is_tried:
            self._note_trial(model_id, plan, pool, outcomes)
        self._note_fallback(results)
        lost = any(one.refusal is not None and one.refusal.cause == REPLICA_LOST for one in results)
        if not lost and self.trials.note_pool(pool, model_id, outcomes, now, lambda: self._lately(model_id, pool)):
            failed = [one.request for one in results if one.refusal is not None]
            self._open(pool, failed[-1], now)

    def _lately(self, model_id: str, pool: str) -> Collection[str]:
        """Returns the robots that have asked a pool lately."""
        router, found = self._routers.get(model_id), self._clients_lately(model_id)
        if router is None:
            return found
        version = self._version_of(pool)
        return [client_id for client_id in found if router.version_now(client_id) == version]

    def _note_fallback(self, results: Sequence[DispatchResult]) -> None:
        """Keeps what another pool has answered for one that is not asked, for the next probe."""
        if not self.trials.open_breakers():
            return
        for one in results:
            asked = self.lineup.pool(one.request.model_id)
            if asked is not None and self._conditions.is_overridden(asked) and whole(one.request.pool) != asked:
                self._probes.remember(asked, one.request)

    def refusal(self, request: InferenceRequest) -> Refusal | None:
        """As `Readiness`; what a pool that is not asked was to answer is what it is probed with next."""
        if self._conditions.is_overridden(pool := whole_pool(request)):
            self._probes.remember(pool, request)
        return super().refusal(request)

    def look(self, now: float) -> None:
        """Looks for calls that do not end; to be called now and then while robots are connected."""
        hung: dict[str, float] = {}
        # Of all replicas, each of which is a pool of its own where they keep state.
        running: dict[str, list[float]] = {}
        for part, began in self._engine.running_since().items():
            running.setdefault(whole(part) if self._stateful else part, []).extend(began)
        for pool, starts in running.items():
            capacity = self._capacity(pool)
            overdue = [at for at in starts if now - at > HUNG_AFTER_S]
            if overdue and len(overdue) >= capacity.max_inflight * len(capacity.replicas):
                hung[pool] = min(overdue)
            self._note_running(pool, now - min(starts))
        if hung.keys() != self._hung.keys():
            self._hung = hung
            self.refresh()

    def _note_running(self, pool: str, running_s: float) -> None:
        model_id = self.model_of(pool)
        plan = self.lineup.plans.get(model_id)
        version = None if plan is None or not plan.trials else self._version_of(pool)
        if plan is None or version is None:
            return
        why = self.trials.note_running(model_id, version, plan, running_s, self.lineup.active[model_id])
        if why is not None:
            self._take_back(model_id, version, why)

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

    def _hand_over(self, batch: Batch, now: float) -> None:
        super()._hand_over(batch, now)
        pool = whole(batch.model_id)
        model_id = self.model_of(pool)
        plan = self.lineup.plans.get(model_id)
        if plan is not None and plan.trials:
            late = [Outcome(one.client_id, None, True, None) for one in batch.requests]
            self._note_trial(model_id, plan, pool, late)

    def _note_trial(self, model_id: str, plan: Plan, pool: str, outcomes: Sequence[Outcome]) -> None:
        version = self._version_of(pool)
        if version is None:
            return
        why = self.trials.note(model_id, version, plan, outcomes, self.lineup.active[model_id])
        if why is not None:
            self._take_back(model_id, version, why)

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
            self._conditions.release(pool, time.monotonic())
            logger.info("model %s answers again", pool)
            self._on_state(pool, ModelState.READY.value)
            self._sort()
            self.settle()
        self.on_work()

    def _shadow(self, model_id: str, version: str, results: Sequence[DispatchResult], now: float) -> None:
        """Gives the version in the shadow what the active one has answered, if no robot is to meet its call."""
        pool = self.lineup.pool(model_id, version)
        if pool is None or not self._probes.may_shadow(pool, now) or self._engine.waiting() or not self.is_ready(pool):
            return
        answered = next((one for one in results if one.values is not None), None)
        if answered is None or any(map(self._engine.inflight, self._colocated(pool))):
            return
        free_s = self._probes.room_s(pool, answered)
        if self._probes.is_impatient(pool, now) or (self._engine.idle and not self._expects(now, free_s)):
            self._probes.shadow(pool, answered)

    def _colocated(self, pool: str) -> Collection[str]:
        """Returns the pools that share a device with one, itself included."""
        return self._engine.availability.colocated_models(pool)

    def _on_compared(self, pool: str, active: DispatchResult, shadow: DispatchResult) -> None:
        comparison = self.trials.comparison(self.model_of(pool))
        apart = None if comparison is None else compare(comparison, active, shadow)
        if apart is not None:
            self._on_difference(self.model_of(pool), apart)

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
