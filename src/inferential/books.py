"""What is written down of requests: who asked in what rhythm, what became of it, and the metrics of both.

It decides nothing and sends nothing. Where nobody waits for what it finds, it writes after the robots were served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from inferential.dispatch.base import DispatchResult
from inferential.metrics.recorder import Recorder
from inferential.reception import Arrival
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind
from inferential.scheduler.running import Batch
from inferential.scheduler.time.deadline import deadline_of
from inferential.scheduler.time.fair_share import FairShares
from inferential.tracking.fleet import Fleet
from inferential.tracking.runway import horizon_of

if TYPE_CHECKING:
    from inferential.tracking.tally import Tally


class Books:
    """The fleet and the metrics, as requests change them.

    Args:
        fleet, recorder, shares: what is written in.
        weigh: the weight of a request's client among those that share a model.
        greet: called with the id of a client that was not there before.
    """

    def __init__(
        self,
        fleet: Fleet,
        recorder: Recorder,
        shares: FairShares,
        weigh: Callable[[InferenceRequest], float],
        greet: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._recorder = recorder
        self._shares = shares
        self._weigh = weigh
        self._greet = greet
        self._arrivals: deque[Arrival] = deque()
        self._batches: deque[tuple[Batch, int]] = deque()

    def arrived(self, arrival: Arrival) -> None:
        """A request came in; from here on it has its deadline."""
        self.keep()
        self._arrived(arrival)

    def _arrived(self, arrival: Arrival) -> None:
        request = arrival.request
        client_id, model_id, now = request.client_id, request.model_id, request.received_at
        sighting = self._fleet.seen(
            client_id,
            model_id,
            arrival.client_type,
            request.identity,
            now,
            request.steps_remaining,
            arrival.control_period_s,
        )
        if sighting.is_new:
            self._greet(client_id)
        request.time_until_next = sighting.time_until_next_s
        request.deadline = deadline_of(
            now,
            explicit_budget_ms=arrival.told_budget_ms,
            runs_out_at=sighting.runs_out_at,
            cadence_s=sighting.steady_cadence_s,
            default_budget_ms=request.latency_budget_ms,
        )
        self._shares.note(client_id, model_id, self._weigh(request))
        request.serve_interval_ms = self._shares.interval_ms(client_id, model_id)
        self._fleet.responses.on_request(client_id, request.response_id, model_id, now)
        self._recorder.observed(request, arrival.staleness_ms, sighting.learned_cadence_s, sighting.cadence_deviation_s)

    def later(self, arrival: Arrival) -> bool:
        """Whether a request's arrival may be written down when `keep` is called, after it went to its model.

        A client that is not known yet must be greeted first, and who speaks for it is known at once.
        """
        request = arrival.request
        if self._fleet.owner(request.client_id) != request.identity:
            return False
        request.serve_interval_ms = self._shares.interval_ms(request.client_id, request.model_id)
        self._arrivals.append(arrival)
        return True

    def dispatched(self, batch: Batch, queue_depth: int) -> None:
        """A batch went to its model; it is written down by `keep`."""
        self._batches.append((batch, queue_depth))

    @property
    def behind(self) -> bool:
        """Whether there is something for `keep` to write."""
        return bool(self._arrivals or self._batches)

    def keep(self) -> None:
        """Writes down what was left for later."""
        while self._arrivals:  # one by one: a callback that is told of a metric may ask for the books itself
            self._arrived(self._arrivals.popleft())
        while self._batches:
            batch, queue_depth = self._batches.popleft()
            self._recorder.dispatched(batch.model_id, batch.requests, queue_depth, batch.started_at)

    def answered(self, result: DispatchResult, now: float) -> None:
        """A result was sent just now."""
        self.keep()
        request, latency_ms = result.request, result.latency_ms
        client_id, model_id = request.client_id, request.model_id
        self._fleet.responses.on_response_sent(client_id, result.response_id, latency_ms, model_id, now)
        self._recorder.answered(request, latency_ms, now)
        tally = self._tally(request)
        if tally is not None:
            tally.answered += 1
            tally.in_time += now <= request.deadline
            tally.age_ms = (now - request.received_at) * 1e3
        horizon = horizon_of(result.values)
        if horizon is not None:
            self._fleet.runway.on_answer(client_id, model_id, horizon, request.received_at)

    def refused(self, request: InferenceRequest, refusal: Refusal) -> None:
        """A request ended without a result."""
        self.keep()
        self._recorder.refused(request)
        tally = self._tally(request)
        if tally is not None:
            if refusal.kind is RefusalKind.SUPERSEDED:
                tally.superseded += 1
            else:
                tally.refused += 1
        self.void(request, refusal)

    def retried(self, request: InferenceRequest) -> None:
        """A request that failed is to be tried again; it has its deadline, for who orders it."""
        self.keep()
        self._recorder.retried(request)

    def void(self, request: InferenceRequest, refusal: Refusal) -> None:
        """The response to a request will never be used."""
        self.keep()
        if self._fleet.responses.on_invalidated(
            request.client_id, refusal.cause, request.response_id, request.model_id
        ):
            self._recorder.invalidated(request.client_id)

    def _tally(self, request: InferenceRequest) -> Tally | None:
        if self._fleet.client(request.client_id) is None:
            return None  # nothing is kept of who is not there
        return self._fleet.tallies.of(request.client_id, request.model_id)
