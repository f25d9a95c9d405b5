"""Accounts for requests: cadences, deadlines, outcomes and metrics.

It makes no scheduling decision and sends nothing. A request that goes to an idle model straight away needs none of this
to be decided, so its records are deferred until after the model call was made. Everything that reads what requests
have changed reads it through this class, which writes deferred records first.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from inferential.dispatch.base import DispatchResult
from inferential.metrics.recorder import Recorder
from inferential.proto import PROTOCOL_VERSION, Applied
from inferential.scheduler.engine import Engine
from inferential.scheduler.request import (
    CANCELLED,
    CLIENT_GONE,
    NEW_EPISODE,
    InferenceRequest,
    Refusal,
    RefusalKind,
)
from inferential.scheduler.running import Batch
from inferential.scheduler.time.deadline import deadline_of
from inferential.scheduler.time.fair_share import FairShares
from inferential.server import newcomers
from inferential.server.call_times import CallTimes
from inferential.server.chunk_times import adds_s, chunk_time
from inferential.server.ingress import IncomingRequest, Overtaken
from inferential.tracking.action_horizon import horizon_of
from inferential.tracking.fleet import Fleet, FleetChanges
from inferential.tracking.outcome_counts import UsedLate

if TYPE_CHECKING:
    from inferential.tracking.outcome_counts import OutcomeCounts
    from inferential.tracking.track import Track

_SHARES_EACH_S = 0.001
"""For each client, the time until shares are computed again: a thousandth of it is spent on that, however many ask."""


_CALLS_WAITED, _WAITED_BESIDE_S = 3, 5e-3
"""Calls and seconds that a request may wait beside a flood before less is shared with that."""
_REQUEST = attrgetter("request")
_ENDED_BY_ROBOT = frozenset({CANCELLED.cause, CLIENT_GONE, NEW_EPISODE.cause})


class Accounting:
    """Writes what happens to requests into the fleet, the fair shares and the metrics.

    Args:
        fleet, recorder, shares: what is written to.
        engine: the engine whose order depends on the deadlines that are set here.
        weight_of: returns the weight of a request's client among those that share a model.
        on_connected: called with the id of a client that was not connected before.
    """

    def __init__(
        self,
        fleet: Fleet,
        recorder: Recorder,
        shares: FairShares,
        engine: Engine,
        weight_of: Callable[[InferenceRequest], float],
        on_connected: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._recorder = recorder
        self._shares = shares
        self._engine = engine
        self._weight_of = weight_of
        self._on_connected = on_connected
        self._arrivals: deque[IncomingRequest] = deque()
        self._batches: deque[tuple[Batch, int]] = deque()
        self._shares_due_at = -math.inf
        self.on_dispatch: Callable[[Batch], None] | None = None
        """Called with each batch before its model gets it."""
        self.on_used_late: Callable[[UsedLate], None] | None = None
        """Called with each answer that was sent in time and used too late, when its robot says so."""
        self.late_by_cause: dict[str, int] = {}
        """Late actions of all robots so far, by cause."""
        self._call_times = CallTimes(engine.profiles)

    # Reading: deferred records are written first

    @property
    def fleet(self) -> Fleet:
        """The clients, up to date."""
        self.flush()
        return self._fleet

    @property
    def engine(self) -> Engine:
        """The engine, with the deadline set of every request that it may order."""
        self.flush()
        return self._engine

    def deadline(self, request: InferenceRequest) -> float:
        """Returns a request's deadline, in seconds of `time.monotonic()`."""
        self.flush()
        return request.deadline

    def owner(self, client_id: str) -> bytes | None:
        """Returns the identity of a client's connection; None if the client is not connected.

        Needs no flush: an arrival is deferred only if it does not change this.
        """
        return self._fleet.owner(client_id)

    def next_sweep_at(self) -> float | None:
        """Returns when to call `sweep` next; None while there is nothing to find. Needs no flush, as `owner`."""
        return self._fleet.next_sweep_at()

    @property
    def pending(self) -> int:
        """How many records are deferred."""
        return len(self._arrivals) + len(self._batches)

    # Writing

    def arrived(self, incoming: IncomingRequest) -> bool:
        """Records an arrival and sets the request's deadline; returns whether its client is new."""
        self.flush()
        request = incoming.request
        if self._fleet.newcomers.flooded and newcomers.floods(self._fleet, request):
            request.pace_s = newcomers.PACE_S
        elif self._shares.limits_any:
            self._limit(incoming)
        return self._arrived(incoming, renews=bool(incoming.renews) and self._engine.supersedes(request))

    def defer(self, incoming: IncomingRequest) -> bool:
        """Defers the record of an arrival until `flush`; False if it must be recorded at once.

        It must be if the client has not asked this model before, or sends from another connection than it did.
        """
        request = incoming.request
        track = self._fleet.track(request.client_id, request.model_id)
        if track is None or track.client.identity != request.identity:
            return False
        if self._shares.limits_any:
            self._limit(incoming)
        self._arrivals.append(incoming)
        return True

    def refusal_as_new(self, request: InferenceRequest) -> Refusal | None:
        """Returns why the first request of a client is refused, if it is. Needs no flush, as `owner`."""
        if not self._fleet.newcomers.flooded:  # every request comes by here
            return None
        return newcomers.refusal(self._fleet, request, self._engine.waits)

    def _limit(self, incoming: IncomingRequest) -> None:
        """Notes in a request how often its client can be served."""
        request = incoming.request
        request.serve_interval_ms = self._shares.interval_ms(request.client_id, request.pool)
        # A robot that is asked for newer observations sends several for each answer, and floods nothing by that.
        if request.serve_interval_ms and not incoming.renews:
            request.goes_aside = self._shares.sets_aside and self._shares.goes_aside(request.client_id, request.pool)
            if not request.in_order:
                request.pace_s = self._shares.pace_s(request.client_id, request.pool)

    def dispatched(self, batch: Batch, queue_depth: int) -> None:
        """Defers the record of a dispatched batch until `flush`."""
        self._batches.append((batch, queue_depth))
        if self.on_dispatch is not None:
            self.on_dispatch(batch)

    def flush(self) -> None:
        """Writes the deferred records."""
        while self._arrivals:  # one at a time: a metric callback may read the status, which flushes too
            self._arrived(self._arrivals.popleft())
        while self._batches:
            batch, queue_depth = self._batches.popleft()
            requests = batch.requests
            self._recorder.dispatched(requests[0].model_id, requests, queue_depth, batch.started_at)
            self._call_times.began(batch)
            if (rows := len(requests)) > 1:
                for request in requests:
                    request.rows = rows
            for request in requests:
                if request.steps_remaining is not None:
                    self._fleet.action_horizon.on_dispatch(
                        request.client_id, request.model_id, request.request_id, request.received_at, adds_s(request)
                    )

    def _arrived(self, incoming: IncomingRequest, *, renews: bool = False) -> bool:
        request = incoming.request
        client_id, model_id, now = request.client_id, request.model_id, request.received_at
        steps_remaining, client_type = request.steps_remaining, request.client_type
        update = self._fleet.on_observation(
            client_id,
            model_id,
            client_type,
            request.identity,
            now,
            steps_remaining,
            request.control_period_s,
            renews=renews,
        )
        request.track = update.track
        if update.is_new:
            self._on_connected(client_id)
            self._recorder.active_clients(self._fleet.active_count)
        request.time_until_next = update.time_until_next_s
        if incoming.explicit_budget_ms is None:  # else the request has its deadline
            request.deadline = deadline_of(
                now,
                explicit_budget_ms=None,
                runs_out_at=update.runs_out_at,
                cadence_s=update.steady_cadence_s,
                default_budget_ms=request.latency_budget_ms,
            )
            if steps_remaining is not None:
                request.chunk = chunk_time(self._fleet.action_horizon, incoming)
        self._shares.note(client_id, model_id, self._weight_of(request), client_type, request.pool)
        if (self._shares.finds_floods or self._fleet.newcomers.flooded) and not request.floods and not renews:
            self._engine.expect(request)
        applied = incoming.applied
        if applied is not None and applied.request_id:
            self._applied(request, applied)
        self._recorder.observed(request, incoming.staleness_ms, update.learned_cadence_s, update.cadence_deviation_s)
        if incoming.is_stale or incoming.misalignment_ms:
            self._recorder.flawed(request, incoming.misalignment_ms, is_stale=incoming.is_stale)
        return update.is_new

    def refused_on_arrival(self, incoming: IncomingRequest, refusal: Refusal) -> None:
        """Records that an observation arrived which is refused at once; its refusal is recorded by `refused`."""
        if refusal.kind is not RefusalKind.UNKNOWN_MODEL:  # whose names are as many as clients make up
            self._recorder.turned_away(incoming.request, refusal.cause)
        if incoming.is_stale or incoming.misalignment_ms:
            self.flush()
            self._recorder.flawed(
                incoming.request,
                incoming.misalignment_ms,
                is_stale=incoming.is_stale,
                staleness_ms=incoming.staleness_ms,
            )

    def _applied(self, request: InferenceRequest, applied: Applied) -> None:
        """Records what a robot says of a result that it has used."""
        age_ms, unread_ms = applied.age_ms, applied.unread_ms
        if not (0 <= age_ms < math.inf and 0 <= unread_ms < math.inf):
            return  # no robot SDK sends this, and it is no reason to refuse the observation
        counts = self._fleet.outcomes.of(request.client_id, request.model_id)
        found = counts.on_applied(applied.request_id, age_ms, unread_ms, request.received_at)
        self._recorder.applied(request, age_ms, unread_ms, found.network_ms, is_late=found.is_late)
        if found.cause is not None:
            self._late(request, found.cause, request.received_at)
            if found.is_late and self.on_used_late is not None:
                self.on_used_late(UsedLate(request.client_id, request.model_id, applied.request_id, found.cause))

    def answered(self, results: Sequence[DispatchResult]) -> None:
        """Records results of one call that were sent, whose requests say when."""
        self.flush()
        if not results:
            return
        requests = list(map(_REQUEST, results))
        self._recorder.answered(requests)
        for result, request, times in zip(results, requests, self._call_times.of(requests), strict=True):
            track: Track | None = request.track
            counts = track.counts if track is not None and track.stands else self._counts(request)
            if track is not None:
                track.rhythm.on_answer(request.received_at, request.sent_at)
            if counts is not None:
                reports = request.protocol_version >= PROTOCOL_VERSION and request.connection >= 0
                cause = counts.on_answer(request.request_id if reports else 0, times)
                if cause is not None:
                    self._late(request, cause, request.sent_at)
            horizon = horizon_of(result.values)
            if horizon is not None:
                self._fleet.action_horizon.on_answer(
                    request.client_id,
                    request.model_id,
                    horizon,
                    request.received_at,
                    request.request_id,
                    request.sent_at,
                )

    def _late(self, request: InferenceRequest, cause: str, now: float) -> None:
        self.late_by_cause[cause] = self.late_by_cause.get(cause, 0) + 1
        self._recorder.late(request, cause, now)

    def refused(self, request: InferenceRequest, refusal: Refusal) -> None:
        """Records a request that ended without a result."""
        self.flush()
        now, kind = time.monotonic(), refusal.kind
        is_miss = kind is RefusalKind.EXPIRED
        counts = self._counts(request)
        if counts is not None:
            if kind is RefusalKind.SUPERSEDED:
                counts.superseded += 1
            else:
                counts.refused += 1
                counts.on_refused(kind.value, refusal.cause, refusal.reason, now)
            if refusal.cause not in _ENDED_BY_ROBOT:
                budget_s = request.deadline - request.received_at
                is_miss |= counts.on_no_answer(request.received_at, budget_s, now)
        self._recorder.refused(request, is_miss=is_miss)
        if request.steps_remaining is not None:
            self._fleet.action_horizon.on_no_answer(request.client_id, request.model_id, request.request_id)
        self.invalidated(request)

    def overtaken(self, overtaken: Overtaken, now: float) -> float:
        """Records observations that were superseded unread; returns the client's serve interval in milliseconds."""
        client_id, model_id, count = overtaken.client_id, overtaken.model_id, len(overtaken.request_ids)
        self._recorder.overtaken(client_id, model_id, overtaken.payload_bytes, now)
        self.fleet.on_overtaken(client_id, model_id, count, now)
        return self._shares.model_interval_ms(client_id, model_id)

    def retried(self, request: InferenceRequest) -> None:
        """Records a failed request that is queued again; it has its deadline from here on."""
        self.flush()
        self._recorder.retried(request)
        if request.steps_remaining is not None:
            self._fleet.action_horizon.on_no_answer(request.client_id, request.model_id, request.request_id)

    def invalidated(self, request: InferenceRequest) -> None:
        """Records that a request gets no response, if its client, which has waited for one, is there still."""
        self.flush()
        track = request.track
        if track is not None and self._fleet.client(request.client_id) is track.client:
            self._recorder.invalidated(request.client_id)

    def sweep_steps(
        self,
        now: float,
        stands: Callable[[int], bool] = lambda connection: True,
        has_unread: Callable[[bytes], bool] = lambda identity: False,
    ) -> Iterator[FleetChanges]:
        """Finds clients that have fallen silent, some with each step, and records the overdue ones.

        Args:
            now: seconds of `time.monotonic()`.
            stands: returns whether the connection with a number stands: who waits for an answer by it is not gone.
            has_unread: returns whether the connection with an identity has sent what was not looked at yet: in an
                overload it is the server that is late, and the client is not gone.
        """
        fleet = self.fleet
        waiting: set[str] | None = None

        def waits(client_id: str) -> bool:
            nonlocal waiting
            if waiting is None:
                waiting = {request.client_id for request in self._engine.requests() if stands(request.connection)}
            return client_id in waiting

        newcomers.count(fleet, self._engine, now)
        for changes in fleet.sweep_steps(now, waits, self._is_behind(has_unread)):
            for client_id, model_id in changes.overdue:
                self._recorder.overdue(client_id, model_id)
            yield changes
            self.flush()  # what came meanwhile

    def share_steps(self, now: float, has_unread: Callable[[bytes], bool]) -> Iterator[None]:
        """Updates the fair shares if they are due, a part with each step, between which robots can be served.

        Args:
            now, has_unread: as for `sweep`.
        """
        if now >= self._shares_due_at:
            fleet = self.fleet
            self._shares_due_at = now + _SHARES_EACH_S * fleet.active_count
            is_behind = self._is_behind(has_unread)
            yield from self._shares.steps(fleet.periods(now), self._pressed(now), is_behind, fleet.pause_s)

    def _is_behind(self, has_unread: Callable[[bytes], bool]) -> Callable[[str], bool]:
        """Returns a function which says of a client whether not all is read that it has sent."""

        def is_behind(client_id: str) -> bool:
            client = self._fleet.client(client_id)
            return client is not None and has_unread(client.identity)

        return is_behind

    def _pressed(self, now: float) -> set[str]:
        """Returns the pools for which clients wait long that do not flood them, beside ones that do."""
        pressed: set[str] = set()
        if self._shares.finds_floods:
            for request in self._engine.waiting_requests():
                if not request.pace_s and request.pool not in pressed:
                    most_s = _CALLS_WAITED * self._engine.profiles.of(request.pool).typical(1) + _WAITED_BESIDE_S
                    if now - request.received_at > most_s:
                        pressed.add(request.pool)
        return pressed

    def disconnected(self, client_ids: list[str]) -> None:
        """Records that clients have disconnected and drops their metrics; call it once their requests have ended."""
        self._recorder.disconnected(client_ids)
        self._recorder.active_clients(self._fleet.active_count)

    def _counts(self, request: InferenceRequest) -> OutcomeCounts | None:
        if self._fleet.client(request.client_id) is None:
            return None  # a disconnected client has no record
        return self._fleet.outcomes.of(request.client_id, request.model_id)
