"""What a person sees of a running server: the fleet, the models and the newest batches, as plain values.

It only reads; who shows it, and how, is the business of `web` and `cli`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from inferential.dispatch.base import NodeUse
from inferential.dispatch.health import EndpointHealth
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.profile import Profiles
from inferential.scheduler.shares import FairShares
from inferential.tracking.fleet import Fleet
from inferential.tracking.outcome_counts import Tally

ClientState = Literal["active", "overdue", "gone"]

BATCHES = 1024
"""Calls that are remembered."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What a client has of one model.

    Attributes:
        model_id: which.
        control_rate_hz: actions it plays in a second, told or learned; None while unknown.
        cadence_ms: learned period of its observations; None while unknown.
        answered, in_time, superseded, refused: how its requests ended; `in_time` are those of `answered` that were
            sent before their deadline.
        age_ms: how old the observation behind the last action was when it was sent.
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


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client.

    Attributes:
        client_id, client_type: as it said.
        state: "overdue" is late by its own rhythm, "gone" silent for the disconnect time-out.
        seen_s_ago: seconds since its last observation.
        requests: its observations so far.
        models: what it has of each.
    """

    client_id: str
    client_type: str
    state: ClientState
    seen_s_ago: float
    requests: int
    models: list[ModelUse] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchLatency:
    """Latency of a model's calls of one batch size: the median, and the high quantile that deadlines go by."""

    batch_size: int
    median_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica; its name is "" where a model has only one."""

    name: str
    in_flight: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model.

    Attributes:
        model_id: which.
        max_batch_size: rows that a call takes.
        max_inflight: calls that each replica takes at once; 0: none can run just now.
        waiting: requests in the queue.
        in_flight: calls that run.
        replicas: what each of them runs.
        latency: by batch size, of the replica most called.
        calls: requests that its backend ran.
        error_rate: moving share of them that failed, 0 to 1.
        last_error: what the last failure said.
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


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One call of a model; times are seconds since the server started.

    Attributes:
        number: counts up; the newest is the highest.
        model_id, replica, rows: what ran where.
        started_s: when it was dispatched.
        ended_s: None while it runs.
        ok: whether any row got a result; True while it runs.
        clients: who had a row in it.
    """

    number: int
    model_id: str
    replica: str
    rows: int
    started_s: float
    ended_s: float | None
    ok: bool
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server as a whole.

    Attributes:
        version: of the package.
        address: where robots connect.
        strategy: in charge of the order.
        uptime_s: seconds since it started.
        draining: it takes no more requests.
        waiting, in_flight: requests in the queue, requests that run.
        clients, models, batches, nodes: as their types say; batches oldest first, nodes where the backend knows them.
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

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


_Ended = tuple[int, str, str, float, float, bool, list[str]]
"""Of a call that ended, what `BatchStatus` is made of; few of them are ever looked at."""


class History:
    """The newest calls, those that run included.

    Args:
        started_at: when the server started, in seconds of `time.monotonic()`.
    """

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self._ended: deque[_Ended] = deque(maxlen=BATCHES)
        self._running: dict[Batch, int] = {}
        self._count = 0

    def began(self, batch: Batch) -> None:
        """A call was dispatched."""
        self._count += 1
        self._running[batch] = self._count

    def ended(self, batch: Batch, now: float, *, ok: bool) -> None:
        """A call ended."""
        clients = [request.client_id for request in batch.requests]  # not the requests, which hold large payloads
        self._ended.append(
            (self._running.pop(batch), batch.model_id, batch.replica, batch.started_at, now, ok, clients)
        )

    def batches(self) -> list[BatchStatus]:
        """Those that ended, then those that run."""
        found = [self._status(*ended) for ended in self._ended]
        for batch, number in self._running.items():
            clients = [request.client_id for request in batch.requests]
            found.append(self._status(number, batch.model_id, batch.replica, batch.started_at, None, True, clients))
        return found

    def _status(
        self,
        number: int,
        model_id: str,
        replica: str,
        started_at: float,
        ended_at: float | None,
        ok: bool,
        clients: list[str],
    ) -> BatchStatus:
        started_s = started_at - self.started_at
        ended_s = None if ended_at is None else ended_at - self.started_at
        return BatchStatus(number, model_id, replica, len(clients), started_s, ended_s, ok, tuple(clients))


def clients_of(fleet: Fleet, shares: FairShares, now: float) -> list[ClientStatus]:
    """The clients that are there, then those that went lately."""
    here = []
    for client_id, client in fleet.registry.all_clients.items():
        models = [_use(fleet, shares, client_id, model_id) for model_id in sorted(client.model_ids)]
        state: ClientState = "overdue" if fleet.is_late(client_id) else "active"
        seen_s_ago = now - client.last_seen
        here.append(ClientStatus(client_id, client.client_type, state, seen_s_ago, client.total_requests, models))
    gone = [
        ClientStatus(client_id, client.client_type, "gone", now - client.last_seen, client.total_requests)
        for client_id, client in fleet.departed.items()
    ]
    return here + gone


def _use(fleet: Fleet, shares: FairShares, client_id: str, model_id: str) -> ModelUse:
    tally = fleet.tallies.models(client_id).get(model_id) or Tally()
    cadence_s = fleet.cadence.learned_cadence(client_id, model_id)
    period_s = fleet.runway.period_s(client_id, model_id)
    return ModelUse(
        model_id,
        control_rate_hz=None if period_s is None else 1 / period_s,
        cadence_ms=None if cadence_s is None else cadence_s * 1e3,
        answered=tally.answered,
        in_time=tally.in_time,
        superseded=tally.superseded,
        refused=tally.refused,
        age_ms=tally.age_ms,
        serve_interval_ms=shares.interval_ms(client_id, model_id),
    )


def model_of(model_id: str, capacity: Capacity, engine: Engine, health: EndpointHealth | None) -> ModelStatus:
    """One model, of the capacity that it has now."""
    in_flight = engine.inflight_by_replica(model_id)
    return ModelStatus(
        model_id,
        max_batch_size=capacity.max_batch_size,
        max_inflight=capacity.max_inflight,
        waiting=engine.waiting(model_id),
        in_flight=sum(in_flight.values()),
        replicas=[ReplicaStatus(name, in_flight.get(name, 0)) for name in capacity.replicas],
        latency=_latency(engine.profiles, model_id),
        calls=0 if health is None else health.total_requests,
        error_rate=0.0 if health is None else health.error_rate,
        last_error=None if health is None else health.last_error,
    )


def _latency(profiles: Profiles, model_id: str) -> list[BatchLatency]:
    known = profiles.as_dict().get(model_id, [])
    return [BatchLatency(int(size["batch_size"]), size["median_ms"], size["high_ms"]) for size in known]
