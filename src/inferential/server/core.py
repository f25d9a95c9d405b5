"""The parts of a server that exist whether or not it listens, and the configuration that they share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from inferential.config.changes import in_force
from inferential.config.profiles import load_profiles
from inferential.config.schema import InferentialConfig, SchedulingConfig
from inferential.dispatch.base import Dispatcher
from inferential.dispatch.limits import ActionChecks
from inferential.metrics.collector import MetricsCollector
from inferential.metrics.recorder import Recorder
from inferential.models.manager import ModelManager
from inferential.models.readiness import Surroundings
from inferential.notices import LineQuota
from inferential.scheduler import create_scheduler
from inferential.scheduler.base import Scheduler
from inferential.scheduler.engine import Engine
from inferential.scheduler.options import with_options
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.fair_share import FairShares
from inferential.scheduler.time.planned_rates import ClassRate
from inferential.scheduler.time.profile import Profiles
from inferential.scheduler.weight import weight_of
from inferential.server.accounting import Accounting
from inferential.server.capacities import Capacities
from inferential.server.ingress import Ingress
from inferential.server.inprocess import InProcessClients
from inferential.tracking.fleet import Fleet

logger: logging.Logger = logging.getLogger("inferential")

MAX_COMINGS = 2000
"""Lines a minute about clients that come; a fleet has fewer, and one that makes up ids must not fill a disk."""
_LATELY_S = 5.0


class Core:
    """Creates the parts from a configuration, and applies changes of it to them.

    Args:
        config: the configuration; it belongs to this object from here on.
        dispatcher: the backend.
        models: ids of the models that are served; None: those that the backend lists.
    """

    def __init__(self, config: InferentialConfig, dispatcher: Dispatcher, models: Collection[str] | None) -> None:
        self.config: InferentialConfig = config
        self.dispatcher = dispatcher
        self._models = models
        self._configured_scheduling = config.scheduling.model_copy(deep=True)
        self._weighs_priority = config.scheduling.slo_aware.overload == "priority"
        self.metrics: MetricsCollector = MetricsCollector(config.metrics)
        self.recorder: Recorder = Recorder(self.metrics)
        self.inprocess: InProcessClients = InProcessClients()
        # The transport's, once there is one.
        self.connected: Callable[[bytes], bool] = lambda identity: True
        self.capacities: Capacities = Capacities(dispatcher, config.models)
        profiles = Profiles(config.scheduling.slo_aware.latency_quantile)
        if config.models.profiles is not None:
            load_profiles(profiles, config.models.profiles)
        self.engine: Engine = Engine(
            config.scheduling, create_scheduler(config.scheduling), self.capacities.of, profiles
        )
        self._comings = LineQuota(logger, MAX_COMINGS)
        self.shares: FairShares = FairShares(self.engine.availability)
        self.shares.configure(_class_rates(config))
        fleet = Fleet(config.response_tracking)
        self.accounting: Accounting = Accounting(
            fleet, self.recorder, self.shares, self.engine, self._weight_of, self._on_connected
        )
        self.ingress: Ingress = Ingress(config, self._owner, self.model_ids)
        dispatcher.use_actions(ActionChecks(config.models.known))
        self.models: ModelManager = ModelManager(
            Surroundings(
                dispatcher,
                self.engine,
                self.capacities.of,
                self.recorder.model_state,
                lambda: self.config.scheduling.request_ttl_ms / 1e3,
            ),
            self.model_ids,
            self.recorder.shadow_difference,
            self._clients_lately,
            lambda now, within_s: self.accounting.fleet.expects(now, within_s),
        )
        self.capacities.suspend()  # else models of this process would be up, and then down until the server starts
        self.models.configure(config.models)
        self.ingress.models = self.models

    def model_ids(self) -> Collection[str] | None:
        """Returns the ids of the models that are served; None if every id may be one."""
        if self.models.managed:
            return self.models.model_ids()
        return self.dispatcher.model_ids() if self._models is None else self._models

    def without_replica(self) -> list[str]:
        """Returns the ids of the models that no replica serves."""
        known = self.model_ids()
        model_ids = sorted(self.engine.profiles.models() if known is None else known)
        pools = {model_id: self.models.pool_of(model_id) for model_id in model_ids}
        return [model_id for model_id, pool in pools.items() if self.capacities.of(pool).max_inflight == 0]

    def sizes(self) -> dict[str, int]:
        """Returns the number of entries in each table of the parts."""
        return {
            "inprocess_clients": len(self.inprocess),
            "deferred_records": self.accounting.pending,
            "capacities_cached": len(self.capacities),
            **self.ingress.sizes(),
            **self.engine.sizes(),
            **self.accounting.fleet.sizes(),
            **self.metrics.sizes(),
        }

    # Changes of the configuration

    def use_scheduler(self, strategy: str, policy: str | None, options: dict[str, Any]) -> None:
        """Does what `Server.use_scheduler` describes."""
        scheduling = with_options(self.config.scheduling, strategy, options)
        self._schedule(scheduling, _scheduler(scheduling, policy))

    def reconfigure(self, config: InferentialConfig) -> None:
        """Does what `Server.reconfigure` describes."""
        old, self.config = self.config, in_force(self.config, config)
        try:
            # Before anything is changed: what may be refused.
            self.models.check(self.config.models)
            is_rescheduled = config.scheduling != self._configured_scheduling
            scheduler = _scheduler(self.config.scheduling) if is_rescheduled else None
            if config.models.profiles is not None and config.models.profiles != old.models.profiles:
                load_profiles(self.engine.profiles, config.models.profiles)
            if scheduler is None:
                self.config.scheduling = old.scheduling  # with what `use_scheduler` has changed since
            else:
                self._schedule(self.config.scheduling, scheduler)
            self.models.configure(self.config.models)
        except Exception:
            self.config = old
            raise
        self._configured_scheduling = config.scheduling.model_copy(deep=True)
        self.capacities.configure(self.config.models)
        self.dispatcher.use_actions(ActionChecks(self.config.models.known))
        self.shares.configure(_class_rates(self.config))
        self.ingress.configure(self.config)
        self.accounting.fleet.configure(self.config.response_tracking)
        self.metrics.configure(self.config.metrics)

    def _schedule(self, config: SchedulingConfig, scheduler: Scheduler) -> None:
        self.config.scheduling = config
        self._weighs_priority = config.slo_aware.overload == "priority"
        self.engine.profiles.set_quantile(config.slo_aware.latency_quantile)
        self.ingress.configure(self.config)
        self.accounting.engine.swap(config, scheduler, time.monotonic())

    def suspend_models(self) -> None:
        """Keeps requests from the models until `resume_models`, as the backend has not begun."""
        self.capacities.suspend()
        self.models.refresh()

    def resume_models(self) -> None:
        """Lets requests to the models, as the backend has begun."""
        self.capacities.resume()
        self.models.refresh()

    def on_replicas_changed(self) -> None:
        """Forgets the capacities, and the latency profiles of replicas that have gone."""
        self.capacities.forget()
        self.models.refresh()
        profiles = self.engine.profiles
        for model_id in profiles.models():
            known = set(self.dispatcher.replicas(model_id))
            for replica in profiles.replicas(model_id):
                if replica not in known:
                    profiles.forget(model_id, replica)

    # What the parts ask for

    def _clients_lately(self, model_id: str) -> set[str]:
        """Returns the clients that have asked a model within the last seconds."""
        fleet, since = self.accounting.fleet, time.monotonic() - _LATELY_S
        known = {client_id: fleet.client(client_id) for client_id in fleet.registry.all_clients}
        return {
            client_id
            for client_id, one in known.items()
            if one is not None and one.last_seen > since and model_id in one.model_ids
        }

    def _on_connected(self, client_id: str) -> None:
        self._comings.say("client %s connected", client_id)
        self.engine.client_connected(client_id)

    def _weight_of(self, request: InferenceRequest) -> float:
        return weight_of(request) if self._weighs_priority else 1.0

    def _owner(self, client_id: str) -> bytes | None:
        """Returns the identity of a client's connection; None where it has none that stands."""
        identity = self.accounting.owner(client_id)
        if identity is None:
            return None
        stands = self.inprocess.connected(identity)
        return identity if (self.connected(identity) if stands is None else stands) else None


def _scheduler(config: SchedulingConfig, policy: str | None = None) -> Scheduler:
    """Returns a new scheduler; ValueError where there is no such strategy or policy, or it does not order by one."""
    scheduler = create_scheduler(config)
    if policy is not None:
        if not hasattr(scheduler, "use_policy"):
            raise ValueError(f"policy: strategy {config.strategy!r} does not order by a score")
        scheduler.use_policy(policy)
    return scheduler


def _class_rates(config: InferentialConfig) -> dict[str, ClassRate]:
    return {name: ClassRate(one.min_rate_hz, one.value) for name, one in config.clients.classes.items()}
