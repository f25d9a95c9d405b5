"""The state of a running server as plain values, for the web page, the CLI and programs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from inferential.dispatch.base import Dispatcher, ModelProblem, NodeUse, WorkerUse
from inferential.dispatch.health import EndpointHealth
from inferential.models.manager import ModelManager
from inferential.models.report import VersionStatus, versions_of
from inferential.replica.condition import UNKNOWN, Condition
from inferential.scheduler.engine import Capacity, Engine
from inferential.scheduler.time.fair_share import FairShares
from inferential.scheduler.time.profile import Profiles
from inferential.server.capacities import Capacities
from inferential.server.history import MAX_FINISHED_CALLS, BatchStatus, History
from inferential.tracking.fleet import Fleet
from inferential.tracking.lateness import Lateness
from inferential.tracking.outcome_counts import NOTHING_S, OutcomeCounts

ClientState = Literal["active", "overdue", "gone"]
UseCondition = Literal["good", "late", "unanswered"]


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A client's use of one model.

    Attributes:
        model_id: the model.
        control_rate_hz: actions that it plays per second, stated or learned; None while unknown.
        cadence_ms: learned period of its observations; None while unknown.
        answered, in_time, superseded, refused: how many of its requests ended how; `in_time` counts those of
            `answered` that were sent and, where the robot says, applied before their deadline.
        age_ms: age of the observation behind the last result when the robot applied it, or when it was sent where the
            robot does not say; None before the first.
        unread_ms: how long that result had waited unread on the robot; None where the robot does not say.
        lateness: its actions of the last minute: ages, their parts, and what made them late; None: there were none, or
            it was not asked for.
        condition: "late": a tenth or more of its newest actions were; "unanswered": its requests have ended without a
            result for a second and more.
        late_cause: what made its last late action late; None before the first.
        missed: requests that ended without a result while it got nothing.
        unreported: the newest answers of the last minute of which it has not said when it used them.
        serve_interval_ms: the shortest interval at which it can be served; 0: no limit.
    """

    model_id: str
    control_rate_hz: float | None
    cadence_ms: float | None
    answered: int
    in_time: int
    superseded: int
    refused: int
    age_ms: float | None
    serve_interval_ms: float
    unread_ms: float | None = None
    lateness: Lateness | None = None
    condition: UseCondition = "good"
    late_cause: str | None = None
    missed: int = 0
    unreported: int = 0


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client.

    Attributes:
        client_id, client_type: as the client states them.
        state: "overdue": late by its learned cadence; "gone": silent for `response_tracking.disconnect_timeout_s`.
        seen_s_ago: seconds since its last observation.
        requests: observations so far.
        models: its use of each model.
    """

    client_id: str
    client_type: str
    state: ClientState
    seen_s_ago: float
    requests: int
    models: list[ModelUse] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchLatency:
    """Latency of a model's calls of one batch size: the median, and the high quantile that `slo_aware` plans with."""

    batch_size: int
    median_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica and its running calls; its name is "" if the model has only one."""

    name: str
    in_flight: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model.

    Attributes:
        model_id: the model.
        max_batch_size: largest number of requests in a call.
        max_inflight: calls that each replica runs at once; 0: no replica is available.
        waiting: requests in the queue, for any of its versions.
        in_flight: running calls of the active version.
        replicas: the replicas with their running calls.
        latency: by batch size, of the replica that was called most.
        calls: requests that its backend ran, of any version.
        answers: those of them that got a result.
        error_rate: moving average of the share that failed, 0 to 1.
        last_error: text of the last failure; None if there was none.
        problem: why it has fewer replicas or slots than it should; None if it has all.
        state: loading, warming, ready, failing, hung or stopped.
        since_s_ago: for how many seconds it has been so; None: since the server started.
        since: when that began, in seconds since 1970; None: when the server started.
        why: the reason, "" where the state says enough.
        versions: its versions, where the server loads its models itself.
    """

    model_id: str
    max_batch_size: int
    max_inflight: int
    waiting: int
    in_flight: int
    replicas: list[ReplicaStatus]
    latency: list[BatchLatency]
    calls: int
    error_rate: float
    last_error: str | None
    problem: str | None = None
    state: str = "ready"
    since_s_ago: float | None = None
    since: float | None = None
    why: str = ""
    versions: list[VersionStatus] = field(default_factory=list)
    answers: int = 0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server as a whole.

    Attributes:
        version: version of the package.
        address: where robots connect.
        strategy: the scheduling strategy.
        uptime_s: seconds since the server started.
        draining: it accepts no new requests.
        waiting, in_flight: requests in the queue, requests that run.
        clients, models: by id.
        batches: the newest calls, oldest first.
        nodes: the machines of a cluster, if the backend knows them.
        workers: memory and CPU time of the models' processes.
        late_by_cause: late actions of all robots since the server started, by what made them late.
        warnings: what the operator should know, such as that any machine on the network can speak as any robot.
        counters: internal events since the server started.
        sizes: entries in each internal table, for finding leaks. The keys of both may change between versions.
    """

    version: str
    address: str
    strategy: str
    uptime_s: float
    draining: bool
    waiting: int
    in_flight: int
    clients: list[ClientStatus]
    models: list[ModelStatus]
    batches: list[BatchStatus]
    nodes: list[NodeUse]
    workers: list[WorkerUse]
    warnings: list[str]
    counters: dict[str, int]
    sizes: dict[str, int]
    late_by_cause: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as dicts, lists and plain values, ready for JSON."""
        return asdict(self)


@cache
def _version() -> str:
    return version("inferential")


def status_of(
    *,
    address: str,
    strategy: str,
    draining: bool,
    client_ids: Iterable[str],
    fleet: Fleet,
    shares: FairShares,
    engine: Engine,
    model_ids: Collection[str] | None,
    capacities: Capacities,
    dispatcher: Dispatcher,
    history: History,
    models: ModelManager,
    warnings: list[str],
    counters: dict[str, int],
    sizes: dict[str, int],
    late_by_cause: dict[str, int],
    after_ended: int = 0,
    most_batches: int = MAX_FINISHED_CALLS,
) -> ServerStatus:
    """Returns the status of a server from its parts, with these of its clients.

    `model_ids` is None if every id may be a model's; of the calls that have ended there are those that did after the
    first `after_ended` of them, or some of them, `most_batches`.
    """
    now = time.monotonic()
    served = engine.profiles.models() if model_ids is None else model_ids
    problems = dispatcher.problems()
    return ServerStatus(
        version=_version(),
        address=address,
        strategy=strategy,
        uptime_s=now - history.started_at,
        draining=draining,
        waiting=engine.waiting(),
        in_flight=len(engine.running()),
        clients=some_clients(fleet, shares, now, client_ids),
        models=[
            model_of(
                model_id,
                capacities.of(models.pool_of(model_id)),
                engine,
                _health(dispatcher, models.pools_of(model_id), models.ended.get(model_id, ())),
                problems.get(models.pool_of(model_id)),
                models.condition(model_id),
                models.parts_of(models.pool_of(model_id)),
                versions_of(models, model_id),
                sum(map(engine.waiting, models.pools_of(model_id))),
            )
            for model_id in sorted(served)
        ],
        batches=history.batches(after_ended, most_batches),
        nodes=list(dispatcher.nodes()),
        workers=list(dispatcher.workers()),
        warnings=warnings,
        counters=counters,
        sizes=sizes,
        late_by_cause=dict(late_by_cause),
    )


def some_clients(
    fleet: Fleet, shares: FairShares, now: float, client_ids: Iterable[str], *, with_lateness: bool = True
) -> list[ClientStatus]:
    """Returns those of these clients that are connected or disconnected lately; the connected ones first."""
    connected, gone = [], []
    for client_id in client_ids:
        client = fleet.client(client_id)
        if client is None:
            if (former := fleet.departed.get(client_id)) is not None:
                seen_s_ago = now - former.last_seen
                gone.append(ClientStatus(client_id, former.client_type, "gone", seen_s_ago, former.total_requests))
            continue
        models = [
            _use(fleet, shares, now, client_id, model_id, with_lateness=with_lateness)
            for model_id in sorted(client.model_ids)
        ]
        state: ClientState = "overdue" if fleet.is_overdue(client_id) else "active"
        seen_s_ago = now - client.last_seen
        connected.append(ClientStatus(client_id, client.client_type, state, seen_s_ago, client.total_requests, models))
    return connected + gone


def _use(
    fleet: Fleet, shares: FairShares, now: float, client_id: str, model_id: str, *, with_lateness: bool
) -> ModelUse:
    counts = fleet.outcomes.models(client_id).get(model_id) or OutcomeCounts()
    cadence_s = fleet.cadence.learned_cadence(client_id, model_id)
    period_s = fleet.action_horizon.period_s(client_id, model_id)
    return ModelUse(
        model_id,
        control_rate_hz=None if period_s is None else 1 / period_s,
        cadence_ms=None if cadence_s is None else cadence_s * 1e3,
        answered=counts.answered,
        in_time=counts.in_time,
        superseded=counts.superseded,
        refused=counts.refused,
        age_ms=counts.age_ms,
        serve_interval_ms=shares.model_interval_ms(client_id, model_id),
        unread_ms=counts.unread_ms,
        lateness=counts.ages.summary(now) if with_lateness else None,
        condition=_condition(counts, now),
        late_cause=counts.ages.last_cause,
        missed=counts.missed,
        unreported=counts.unreported(now),
    )


def _condition(counts: OutcomeCounts, now: float) -> UseCondition:
    nothing_since = counts.nothing_since()
    usual_s = 2 * (counts.age_ms or 0.0) / 1e3  # of answers that come, and late
    if nothing_since is not None and now - nothing_since > max(NOTHING_S, usual_s):
        return "unanswered"
    return "late" if counts.ages.is_late(now) else "good"


def model_of(
    model_id: str,
    capacity: Capacity,
    engine: Engine,
    health: EndpointHealth | None,
    problem: ModelProblem | None = None,
    condition: Condition = UNKNOWN,
    pools: Sequence[str] = (),
    versions: list[VersionStatus] | None = None,
    waiting: int | None = None,
) -> ModelStatus:
    """Returns the status of one model with this capacity; `health` is None before its first request.

    `pools` are that of its active version, and those of its replicas where they keep state; `waiting` counts the
    requests of all versions.
    """
    pools = pools or [model_id]
    in_flight: Counter[str] = Counter()
    for pool in pools:
        part = pool[len(pools[0]) + 1 :] if len(capacity.replicas) > 1 else ""
        for name, count in engine.inflight_by_replica(pool).items():
            in_flight[part or name] += count
    now = time.monotonic()
    return ModelStatus(
        model_id,
        max_batch_size=capacity.max_batch_size,
        max_inflight=capacity.max_inflight,
        waiting=sum(map(engine.waiting, pools)) if waiting is None else waiting,
        in_flight=sum(in_flight.values()),
        replicas=[ReplicaStatus(name, in_flight.get(name, 0)) for name in capacity.replicas],
        latency=next(filter(None, (_latency(engine.profiles, pool) for pool in reversed(pools))), []),
        calls=0 if health is None else health.total_requests,
        error_rate=0.0 if health is None else health.error_rate,
        last_error=None if health is None else health.last_error,
        problem=None if problem is None else problem.reason,
        state=condition.state.value,
        since_s_ago=now - condition.since if math.isfinite(condition.since) else None,
        since=condition.since_unix(now, time.time()),
        why=condition.why,
        versions=versions or [],
        answers=0 if health is None else health.total_requests - health.failures,
    )


def _health(dispatcher: Dispatcher, pools: Sequence[str], ended: Sequence[str]) -> EndpointHealth | None:
    """Returns the health of a model's calls, whichever of its pools had them; None before the first.

    Of pools that were ended it has the counts.
    """
    found = [one for one in map(dispatcher.endpoint_health, pools) if one is not None]
    before = [one for one in map(dispatcher.endpoint_health, ended) if one is not None]
    if len(found) < 2 and not before:
        return found[0] if found else None
    calls = sum(one.total_requests for one in found)
    rate = sum(one.error_rate * one.total_requests for one in found) / max(calls, 1)
    failed = max(found, key=lambda one: one.error_rate, default=EndpointHealth(""))
    latency_ms = found[0].avg_latency_ms if found else 0.0
    calls += sum(one.total_requests for one in before)
    failures = sum(one.failures for one in (*found, *before))
    return EndpointHealth(pools[0], latency_ms, rate, calls, failures, failed.last_error)


def _latency(profiles: Profiles, model_id: str) -> list[BatchLatency]:
    known = profiles.as_dict().get(model_id, [])
    return [BatchLatency(int(size["batch_size"]), size["median_ms"], size["high_ms"]) for size in known]
